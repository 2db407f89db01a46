"""What a machine can run: on made-up machines, with models that were measured and models that were not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from appliance.ai.library import advice, cards, host
from appliance.ai.library.advice import Advice, Machine
from appliance.ai.library.cards import Card, Speed
from appliance.ai.library.errors import HostAway
from tests.support.tinymodel import tiny_model

GB = 10**9


def machine(memory: float = 8, bandwidth: float = 10, cpu: str = "A board, 4 cores") -> Machine:
    """Memory for models in GB, bandwidth in GB/s."""
    bound = int(memory * GB)
    return Machine(
        cpu=cpu, cores=4, features=(), memory=bound * 2, bound=bound, bandwidth=bandwidth * GB, engine="llama_cpp"
    )


def rows(data: Path, found: Machine) -> dict[str, Advice]:
    return {row.name: row for row in advice.recommend(data, found)}


def best(data: Path, found: Machine) -> Advice:
    (chosen,) = [row for row in advice.recommend(data, found) if row.best]
    return chosen


def put(data: Path, name: str, size: int, speed: Speed | None = None) -> None:
    """A model of that size: the file has a hole."""
    models = data / "models"
    models.mkdir(exist_ok=True)
    (models / f"{name}.gguf").write_bytes(tiny_model().read_bytes())
    with (models / f"{name}.gguf").open("r+b") as file:
        file.truncate(size)
    cards.write_card(models / f"{name}.json", Card(speed=speed))


def test_what_does_not_fit_is_last_and_says_so(tmp_path: Path) -> None:
    small = rows(tmp_path, machine(memory=1))
    assert small["qwen2.5-0.5b:Q4_K_M"].fits
    large = small["phi-3.5-mini:Q4_K_M"]
    assert (large.fits, large.why) == (False, "too large for the memory that models may use")
    assert large.needs > large.bytes + 4096 * 393_216
    listed = advice.recommend(tmp_path, machine(memory=1))
    assert [row.fits for row in listed] == sorted((row.fits for row in listed), reverse=True)


def test_the_best_is_the_largest_that_is_fast_enough(tmp_path: Path) -> None:
    slow, fast = best(tmp_path, machine(bandwidth=4)), best(tmp_path, machine(bandwidth=40))
    assert slow.bytes < fast.bytes
    assert min(slow.speed, fast.speed) >= advice.USABLE
    assert best(tmp_path, machine(memory=0.5, bandwidth=40)).needs <= 0.5 * GB
    crawling = best(tmp_path, machine(bandwidth=0.1))
    assert crawling.bytes < 400e6
    assert "slow" in crawling.why


def test_more_weights_go_before_finer_ones(tmp_path: Path) -> None:
    names = [row.name for row in advice.recommend(tmp_path, machine(bandwidth=40)) if row.speed >= advice.USABLE]
    wanted = ["qwen2.5-1.5b:Q8_0", "qwen2.5-1.5b:Q4_K_M", "llama-3.2-1b:Q8_0", "qwen2.5-0.5b:Q8_0"]
    assert [name for name in names if name in wanted] == wanted


def test_twice_the_bandwidth_is_twice_the_estimate(tmp_path: Path) -> None:
    one = rows(tmp_path, machine(bandwidth=10))["qwen2.5-1.5b:Q4_0"]
    two = rows(tmp_path, machine(bandwidth=20))["qwen2.5-1.5b:Q4_0"]
    assert two.speed == pytest.approx(2 * one.speed, rel=0.02)
    assert not one.measured


def test_what_was_measured_here_counts_and_teaches_the_estimates(tmp_path: Path) -> None:
    before = rows(tmp_path, machine())["qwen2.5-1.5b:Q4_0"].speed
    here = Speed(prompt=50.0, generation=30.0, at=1.0, machine="A board, 4 cores")
    put(tmp_path, "mine", 100_000_000, here)
    found = rows(tmp_path, machine())
    assert (found["mine"].measured, found["mine"].speed, found["mine"].here) == (True, 30.0, True)
    # It reached 3 of 10 GB/s, so others are not expected to reach 6.
    assert found["qwen2.5-1.5b:Q4_0"].speed == pytest.approx(before / 2, rel=0.02)


def test_what_was_measured_elsewhere_is_only_estimated(tmp_path: Path) -> None:
    put(tmp_path, "moved", 100_000_000, Speed(prompt=1.0, generation=1.0, at=1.0, machine="Another, 2 cores"))
    found = rows(tmp_path, machine())["moved"]
    assert (found.measured, found.speed) == (False, 60.0)


def test_the_machine_is_measured(tmp_path: Path) -> None:
    began = time.monotonic()
    found = advice.look(tmp_path, bound=123, bandwidth=lambda: 5.0 * GB)
    assert (found.bound, found.bandwidth, found.engine) == (123, 5.0 * GB, "")
    assert found.memory > 0
    assert found.cores >= 1
    assert 1e8 < advice.read_bandwidth(seconds=0.05) < 1e13
    assert time.monotonic() - began < 30


def test_a_host_that_does_not_run_is_not_started_to_be_asked(tmp_path: Path) -> None:
    assert not host.runs(tmp_path)
    assert host.stats(tmp_path) is None
    with pytest.raises(HostAway, match="flowork up"):
        host.ask(tmp_path, "GET", "/stats", None, 1.0)
    assert list(tmp_path.iterdir()) == []
