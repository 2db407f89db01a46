"""Fakes of our own contracts, shared by tests."""
