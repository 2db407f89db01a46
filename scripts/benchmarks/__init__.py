"""Benchmarks: each module is one part with ``run(options) -> list[Row]``; ``scripts/bench`` runs them."""
