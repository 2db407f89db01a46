"""Finds threads, child processes and open files that outlive the tests that made them."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 5.0
#: Servers that serve the whole session of pytest, by process id; they and their children are nobody's leak.
kept: set[int] = set()


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they are seen (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def census() -> set[str]:
    """One line for each living thread, descendant process and open file of this process."""
    threads = {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    return threads | _processes() | _open_files()


def since(before: set[str]) -> set[str]:
    """What has come since a census and does not end within some seconds. Kills what processes remain."""
    deadline = time.monotonic() + _PATIENCE
    while left := census() - before:
        gc.collect()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for line in left:
        if line.startswith("process "):
            os.kill(int(line.split()[1]), signal.SIGKILL)
    return left


def _processes() -> set[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and not kept & {child.pid, child.ppid()}:
                found.add(f"process {child.pid} ({child.name()})")
        except psutil.NoSuchProcess:
            continue
    return found


def _open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the folder's own descriptor
        if not target.startswith("/dev/"):
            found.add(f"file {fd} {target}")
    return found
