"""Tests of the child processes: real interpreters, real limits."""
