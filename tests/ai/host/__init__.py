"""Tests of the model host."""
