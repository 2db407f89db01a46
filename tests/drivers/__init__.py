"""Tests of the drivers, against the real path wherever this machine has one."""
