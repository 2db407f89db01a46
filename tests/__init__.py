"""Tests of Flowork."""
