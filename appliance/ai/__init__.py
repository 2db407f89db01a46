"""Models: the engine's own host for them, providers near and far, and what is built of them."""
