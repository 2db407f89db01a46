"""The pages that are made from the code; `scripts/make-docs` writes them, a test compares them."""
