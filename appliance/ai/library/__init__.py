"""The library of model files: what there is, what could be fetched, fetching it, and what this machine can run."""
