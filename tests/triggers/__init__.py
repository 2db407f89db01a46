"""Tests of the triggers, one file each."""
