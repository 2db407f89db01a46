"""JSON Schemas as the grammars to which this machine's models are held. Pure: it asks nothing of any library."""
