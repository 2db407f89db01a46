"""Which hardware this is, without telling anybody its serial number."""

from __future__ import annotations

import hashlib

from edge_agent.protocol.hardware import machine_id


def digest_of_machine() -> str:
    """Short, and the same as long as the hardware is; empty where nothing is known of it."""
    known = machine_id()
    return hashlib.sha256(f"flowork machine {known}".encode()).hexdigest()[:16] if known else ""
