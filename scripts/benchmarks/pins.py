"""From a pin to the first step of its run: in this kernel if it simulates pins, else in the tests' own kernel.

``python -m scripts.benchmarks.pins COUNT FILE`` measures in the kernel that it runs in; FILE gets milliseconds (JSON).
The tests' kernel (tests/hardware/README.md) is a User Mode Linux: everything in it is slower than on its machine, but
for the disk, which is memory. The simulator passes an edge on with that kernel's tick, which is every 10 ms; a chip
does so at once. So what counts is the time from the edge as the kernel has seen and dated it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.benchmarks.common import Row, engine, percentile
from scripts.benchmarks.edge_runs import PAUSE, flow, running, runs, until

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "tests" / "hardware" / "kernel" / "run"
BOUND = 10.0


def rows(quick: bool) -> list[Row]:
    """Median and p99; without a simulator none, and why."""
    from tests.hardware import simulator

    count = 50 if quick else 200
    if simulator.present() and os.geteuid() == 0:
        late, where = measure(count), "this kernel"
    else:
        late, where = elsewhere(count), "the tests' kernel"
    if not late:
        return []
    edges, pulls = [edge for edge, _ in late], [pull for _, pull in late]
    figures = [("p50", percentile(edges, 0.5)), ("p99", percentile(edges, 0.99))]
    return [
        *(
            Row("edge", f"pin, in {where}: edge to first step, {name}", value, "ms", f"<= {BOUND:g}", value <= BOUND)
            for name, value in figures
        ),
        Row("edge", f"pin, in {where}: with the simulator, p50", percentile(pulls, 0.5), "ms"),
    ]


def elsewhere(count: int) -> list[tuple[float, float]]:
    """Measure in the tests' kernel, which is built if it is not there yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "late.json"
        command = [str(KERNEL), "--python", "-m", "scripts.benchmarks.pins", str(count), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not file.exists():
            sys.stderr.write(f"pins were not measured: {(done.stderr or done.stdout).strip()[-2000:]}\n")
            return []
        return [(edge, pull) for edge, pull in json.loads(file.read_text())]


def measure(count: int) -> list[tuple[float, float]]:
    """Of each of ``count`` edges: milliseconds to the first step, from the edge by the kernel, and from the pull."""
    from tests.hardware import simulator

    chip = simulator.Chip("bench", names=("DOOR",))
    try:
        with tempfile.TemporaryDirectory() as folder:
            flows = {"gpio": flow("gpio", {"line": 0, "chip": chip.name})}
            with engine(Path(folder), flows) as ours:
                running(ours, 1)
                moments = []
                for number in range(count):
                    moments.append(time.time())
                    chip.pull(0, number % 2 == 0)
                    time.sleep(PAUSE)
                until(lambda: len(runs(ours, "gpio")) >= count, "the last run")
                begun = [(payload["time"], at) for payload, at in runs(ours, "gpio")]
    finally:
        chip.remove()
    return [((at - seen) * 1000, (at - pull) * 1000) for pull, (seen, at) in zip(moments, begun, strict=True)]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(int(sys.argv[1]))))
