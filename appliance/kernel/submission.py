"""One event on its way to become a run, and what those who sent it wait for."""

from __future__ import annotations

from collections.abc import Callable

from appliance.contracts import Event, FlowError
from appliance.kernel.runs import LiveRun

OnRun = Callable[[LiveRun], None]


class Submission:
    """An event with all that the engine has to know of it.

    ``committed(run id)`` is called once the run is on disk, ``ended(run)`` when it is over, ``refused(error)`` if no
    run can be made.
    """

    __slots__ = (
        "bypass_mode", "committed", "ended", "event", "flow", "item", "kind", "origin", "parent", "place",
        "poison", "prepare", "refused", "starts_run", "trigger", "version",
    )  # fmt: skip

    def __init__(self, flow: int, trigger: str, kind: str, event: Event) -> None:
        self.flow = flow
        self.trigger = trigger
        self.kind = kind
        self.event = event
        self.version: int | None = None
        self.place = ""
        self.parent: int | None = None
        self.item: tuple[int, int] | None = None
        self.origin: int | None = None
        self.bypass_mode = False
        self.starts_run = True
        self.poison = ""
        self.prepare: OnRun | None = None
        self.committed: Callable[[str], None] | None = None
        self.ended: OnRun | None = None
        self.refused: Callable[[FlowError], None] | None = None


class Elsewhere(FlowError):
    """This kernel is not the flow's home: another one of the cluster is, or is about to be."""

    id = "elsewhere"


class AlreadyRan(FlowError):
    """The event's run has ended long ago; ``message`` is its id."""

    id = "already-ran"
    retryable = False
