"""Helping people with flows: drafting one from words, writing its spec, saying what its runs have shown."""
