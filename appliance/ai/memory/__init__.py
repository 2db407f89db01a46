"""Episodic memory: episodes in SQLite, found again by meaning, words, recency and outcome.

``store`` keeps them, ``vectors`` compares them, ``score`` says what fits best, ``episodes`` puts these together.
"""
