"""What several drivers share, and the parts of the longer ones."""
