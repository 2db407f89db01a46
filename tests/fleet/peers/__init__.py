"""Other engines: found, paired, linked."""
