"""What a flashed box does for itself: takes over ``flowork.toml`` at its start, and steers its two system slots.

Only images use it (``images/``). It runs as root, before and beside the engine, and imports nothing of it but the rules
of keys.
"""
