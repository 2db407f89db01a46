"""A real kernel in a process of its own, on a data folder with flows in it: to be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.engine.states import RunState
from appliance.kernel.client import KernelAway, KernelClient
from appliance.kernel.kernel import Kernel
from appliance.security.keys import init_keys
from appliance.store.history import RunDetail, RunFilter
from appliance.store.metadata import open_store
from appliance.store.places import make_history
from appliance.store.runids import from_text

ROOT = Path(__file__).resolve().parents[2]
_CHILD = """
import sys
from pathlib import Path
from appliance.paths import EngineLock
from appliance.service import run_kernel
data = Path(sys.argv[1])
with EngineLock(data, "kernel"):
    raise SystemExit(run_kernel(data))
"""


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Poll until something is so; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
    return found


class KernelHouse:
    """A data folder and its kernel's process."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.client = KernelClient(data)
        self.history = make_history(data)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.parent / f"{data.name}.log"
        data.mkdir(mode=0o700, parents=True)
        init_keys(data)

    def deploy(self, flow: dict[str, Any], flow_id: str = "") -> int:
        """Save and deploy a flow; returns its number."""
        store = open_store(self.data)
        try:
            base = store.flows.get(flow_id).newest if flow_id else None
            version = store.flows.save(flow_id or None, "home", {"name": "test", **flow}, "ann", "", base)
            saved = store.flows.by_num(version.flow)
            store.flows.deploy(saved.id, version.number, "ann")
            return int(version.flow)
        finally:
            store.close()

    def settings(self, **values: Any) -> None:
        """Change settings; they count from the next start."""
        store = open_store(self.data)
        try:
            store.settings.set(values)
        finally:
            store.close()

    def start(self) -> None:
        """Start the kernel and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(self.data)], cwd=ROOT, stderr=log, stdout=log,
                start_new_session=True,
                env={**os.environ, "FLOWORK_SAFE_MODE_CRASHES": "0"},  # these kernels are killed again and again
            )  # fmt: skip
        wait_for(self.answers)

    def answers(self) -> bool:
        """Whether a kernel answers; fails if its process has ended."""
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"the kernel ended with {code}: {self.log.read_text()}"
        try:
            return bool(self.client.call("ping", timeout=5) == "pong")
        except KernelAway:
            return False

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self, patience: float = 30.0) -> int:
        """Ask it to stop; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)

    def submit(self, flow: int, payload: Any = None, **more: Any) -> Any:
        """Hand an event in."""
        return self.client.call("submit", flow=flow, trigger="t1", kind="manual", payload=payload, **more)

    def states(self, flow: int | None = None) -> list[str]:
        """The states of all runs, oldest first."""
        wanted = RunFilter(flows=() if flow is None else [flow])
        page = self.history.page(wanted, limit=100_000)
        return [RunState(head.state).label for head in reversed(page.items)]

    def close(self) -> None:
        """End what is left. Twice is fine."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.client.close()
        self.history.close()


class LocalKernel(KernelHouse):
    """The same with the kernel in this process, so that a test can look inside."""

    kernel: Kernel | None = None

    def start(self) -> None:
        """Start it here."""
        self.kernel = Kernel(self.data)
        self.kernel.start()
        assert self.kernel.hosting.settled.wait(10)

    def stop(self, patience: float = 30.0) -> int:
        """Stop it."""
        kernel, self.kernel = self.kernel, None
        if kernel is not None:
            kernel.stop()
        return 0

    def close(self) -> None:
        """End what is left. Twice is fine."""
        self.stop()
        super().close()

    def on_engine(self, work: Callable[[], Any]) -> Any:
        """Do something between two turns of the engine; returns its result."""
        assert self.kernel is not None
        done = threading.Event()
        found: list[Any] = []

        def turn() -> None:
            try:
                found.append(work())
            finally:
                done.set()

        self.kernel.engine.post(turn)
        assert done.wait(10)
        return found[0]

    def detail(self, run: str) -> RunDetail:
        """A run with its records."""
        found = self.history.detail(from_text(run))
        assert found is not None
        return found
