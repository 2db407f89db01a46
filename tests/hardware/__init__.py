"""Tests against a kernel's own simulators and against real hardware; see README.md."""
