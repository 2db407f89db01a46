"""Where models are asked: one file is one kind of place, found by scanning."""
