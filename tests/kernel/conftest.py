"""Benches: engines in this process that are closed behind each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bench_engine import Bench
from tests.support.probes import probes


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(data: Path | None = None, extra: dict[str, Any] | None = None, **options: Any) -> Bench:
        bench = Bench(data or tmp_path, extra if extra is not None else probes(), **options)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.die()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
