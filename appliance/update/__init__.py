"""Updates: signed release files, and bringing one in so that a bad one is gone again by itself."""
