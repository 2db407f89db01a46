"""Work on models that takes minutes: making the engine, fetching files. Each in a child, one of each kind at a time.

A child is the command line (``flowork models setup``, ``flowork models pull``) with ``--report``: it says on standard
output how it goes, one JSON document a line. It ends with the kernel, and the next kernel has it go on where it was.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance.ai.building import place
from appliance.ai.building.place import Setup
from appliance.ai.library.jobs import Job, Jobs
from appliance.ai.library.orders import Order
from appliance.contracts import Busy
from appliance.kernel.params import arguments
from appliance.kernel.server import Handler, Params, Reply
from appliance.store.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that a child gets between SIGTERM and SIGKILL.
_PATIENCE = 10.0
#: Seconds between two live events, and between two tries of what failed by itself.
_PACE, _AGAIN = 0.5, 24 * 3600.0
#: Percent between two lines in the log.
_STEP = 10


class SetUp(msgspec.Struct, kw_only=True):
    """The parameters of ``model_setup``."""

    again: bool = False
    portable: bool = False


class Pull(msgspec.Struct, kw_only=True):
    """The parameters of ``model_pull``."""

    order: Order


class Named(msgspec.Struct, kw_only=True):
    """The parameters of ``model_pull_cancel``."""

    id: str


class Child:
    """One command. ``hear`` gets its reports and ``ended`` its end, both on a thread of its own."""

    def __init__(self, words: list[str], hear: Callable[[dict[str, Any]], None], ended: Callable[[int], None]) -> None:
        self._words = words
        self._hear = hear
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def start(self, line: bytes = b"") -> None:
        """Start it with a line to read. Its standard input stays open: when it ends, the kernel has ended."""
        command = [sys.executable, "-m", "appliance.cli", *self._words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        self._thread = threading.Thread(target=self._listen, name="model-job", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._hear(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.MsgspecError:
                logger.warning("a job of models says: %s", line.decode(errors="replace").strip()[:300])
        self._process.stdout.close()
        code = self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._ended(code)

    def stop(self) -> None:
        """End it and wait for that. Twice is fine."""
        if self._process is None or self._thread is None:
            return
        self._process.terminate()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()


class ModelJobs:
    """``tell`` gets live events. Methods may be called on any thread."""

    def __init__(
        self,
        data: Path,
        load_settings: Callable[[], Settings],
        tell: Callable[[dict[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data = data
        self._load_settings = load_settings
        self._tell = tell
        self._now = now
        self._lock = threading.RLock()
        self._jobs = Jobs(data, now)
        self._pull: tuple[Job, Child] | None = None
        self._setup: Child | None = None
        self._setup_state = Setup()
        self._told = 0.0
        self._made = False
        self._stopped = False

    def start(self) -> None:
        """Go on with what was under way. This process uses the engine's libraries too: numpy, prices."""
        place.use_engine(self._data)
        with self._lock:
            self._jobs.load()
        self.look()

    def look(self) -> None:
        """Begin what is to be begun."""
        with self._lock:
            if self._stopped:
                return
            if self._setup is None and self._load_settings().models_setup == "on" and self._due():
                self._begin_setup([])
            self._begin_pull()

    def stop(self) -> None:
        """End the children; the next kernel goes on. Twice is fine."""
        with self._lock:
            self._stopped = True
            children = [child for child in (self._setup, self._pull[1] if self._pull else None) if child is not None]
        for child in children:
            child.stop()

    def view(self) -> dict[str, Any]:
        """How everything goes."""
        with self._lock:
            setup = self._setup_state if self._setup is not None else place.read_state(self._data)
            built: dict[str, Any] = {
                "setup": msgspec.to_builtins(setup),
                "pulls": [msgspec.to_builtins(job) for job in self._jobs.all],
            }
            return built

    def methods(self) -> dict[str, Handler]:
        """What the gateway and the command line may ask over the kernel's socket."""
        return {
            "model_jobs": lambda params, reply: reply.ok(self.view()),
            "model_setup": self._asked_setup,
            "model_setup_cancel": self._asked_cancel_setup,
            "model_pull": self._asked_pull,
            "model_pull_cancel": self._asked_cancel_pull,
        }

    def _asked_setup(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, SetUp)
        self.set_up(again=asked.again, portable=asked.portable)
        reply.ok()

    def _asked_cancel_setup(self, params: Params, reply: Reply) -> None:
        # Ending it takes a moment, and the socket has one thread for all callers.
        self._aside(self.cancel_setup, reply)

    def _asked_pull(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self.pull(arguments(params, Pull).order)))

    def _asked_cancel_pull(self, params: Params, reply: Reply) -> None:
        job_id = arguments(params, Named).id
        self._aside(lambda: self.cancel_pull(job_id), reply)

    def _aside(self, work: Callable[[], None], reply: Reply) -> None:
        def run() -> None:
            try:
                work()
            except Exception as exc:
                reply.error(exc)
            else:
                reply.ok()

        threading.Thread(target=run, name="model-cancel", daemon=True).start()

    # --- the engine --------------------------------------------------------------------------------

    def set_up(self, *, again: bool, portable: bool) -> None:
        """Make the engine. Raises ``Busy`` if that is under way."""
        with self._lock:
            if self._setup is not None or place.under_way(self._data):
                raise Busy("the model engine is being made already", retry_after=60.0)
            self._begin_setup([*(["--again"] if again else []), *(["--portable"] if portable else [])])

    def cancel_setup(self) -> None:
        """End it; it is not begun again by itself."""
        with self._lock:
            child = self._setup
        if child is None:
            return
        child.stop()
        state = place.read_state(self._data)
        if state.state == "cut":
            state.state, state.text = "cancelled", "cancelled; it goes on where it was when it is begun again"
            place.write_state(self._data, state)
            self._tell({"type": "models", "setup": msgspec.to_builtins(state)})

    def _due(self) -> bool:
        """Whether the engine is to be made by itself: what this machine cannot do is tried once, and told once."""
        if self._made or place.under_way(self._data):
            return False
        if place.engine_path(self._data) is not None:
            self._made = True  # not looked for again every minute
            return False
        state = place.read_state(self._data)
        if state.state == "failed":
            return self._now() - state.ended > _AGAIN
        return state.state in ("none", "cut")

    def _begin_setup(self, options: list[str]) -> None:
        logger.info("making the model engine, in the background")
        words = ["models", "setup", "--report", *options, "--data", str(self._data)]
        self._setup_state = Setup(state="running", began=self._now(), text="beginning")
        self._setup = Child(words, self._hear_setup, self._setup_ended)
        self._setup.start()

    def _hear_setup(self, report: dict[str, Any]) -> None:
        with self._lock:
            before, self._setup_state = self._setup_state, msgspec.convert(report, Setup)
            state = self._setup_state
        if state.phase != before.phase or state.percent // _STEP != before.percent // _STEP:
            logger.info("model engine: %d %%, %s", state.percent, state.text)
        self._tell({"type": "models", "setup": report})

    def _setup_ended(self, code: int) -> None:
        with self._lock:
            self._setup = None
            stopped = self._stopped
        state = place.read_state(self._data)
        if state.state in ("failed", "refused"):
            logger.warning("there is no model engine: %s", state.text)
            logger.warning("all else works without it; `flowork models setup` tries again")
        elif state.state == "ready":
            place.use_engine(self._data)
            logger.info("the model engine is made: %s", state.text)
        if not stopped:
            self._tell({"type": "models", "setup": msgspec.to_builtins(state)})

    # --- files -------------------------------------------------------------------------------------

    def pull(self, order: Order) -> Job:
        """Fetch a model, now or behind those that came before. Raises ``ModelIsThere``."""
        with self._lock:
            job = self._jobs.add(order)
            self._begin_pull()
            return job

    def cancel_pull(self, job_id: str) -> None:
        """End it, and forget what has come. Raises ``NoSuchModel``."""
        with self._lock:
            job = self._jobs.find(job_id)
            child = self._pull[1] if self._pull is not None and self._pull[0] is job else None
            if child is None and job.state in ("waiting", "failed"):  # of a failed one too the beginning is on the disk
                self._jobs.end(job, "cancelled", "cancelled")
            elif child is not None:
                job.text = "cancelled"
        if child is not None:
            child.stop()

    def _begin_pull(self) -> None:
        job = self._jobs.next() if self._pull is None and not self._stopped else None
        if job is None:
            return
        words = ["models", "pull", "-", "--report", "--data", str(self._data)]
        child = Child(words, lambda report: self._hear_pull(job, report), lambda code: self._pull_ended(job, code))
        job.state, job.text = "running", "beginning"
        self._jobs.keep()
        self._pull = job, child
        child.start(msgspec.json.encode(job.order))

    def _hear_pull(self, job: Job, report: dict[str, Any]) -> None:
        with self._lock:
            if job.text == "cancelled":
                return
            job.done, job.total = int(report.get("done", job.done)), int(report.get("total", 0)) or job.total
            job.text = str(report.get("failed") or report.get("text", ""))
            soon = self._now() - self._told < _PACE
            if not soon:
                self._told = self._now()
        if not soon:
            self._tell_pull(job)

    def _pull_ended(self, job: Job, code: int) -> None:
        with self._lock:
            self._pull = None
            if job.text == "cancelled":
                self._jobs.end(job, "cancelled", "cancelled")
            elif code == 0:
                job.done = job.total or job.done
                self._jobs.end(job, "done", "")
            elif not self._stopped:
                self._jobs.end(job, "failed", job.text or "the process that fetched it ended unexpectedly")
            else:
                return
        self._tell_pull(job)
        self.look()

    def _tell_pull(self, job: Job) -> None:
        self._tell({"type": "models", "pull": msgspec.to_builtins(job)})
