"""Tests of the library of model files."""
