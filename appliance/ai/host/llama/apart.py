"""Computing in a thread that ends with it, so that it slows down nobody else.

llama.cpp computes by OpenMP, which holds threads ready for every thread that ever computed. Where all these are more
than the processors, it no longer spins for a moment where its threads wait for each other but sleeps in the kernel at
once: measured on two cores, once in a prompt of 500 tokens while one thread has computed, 650 times from the second on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; waits for it. Takes some tenths of a millisecond more."""
    with ThreadPoolExecutor(1, "apart") as thread:
        return thread.submit(work).result()
