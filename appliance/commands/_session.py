"""One call of ``flowork``: the data folder it works on, and what it opens there, closed again at its end.

Everything is opened when it is first asked for: a command that needs no database imports none.
"""

from __future__ import annotations

import getpass
import logging
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from appliance.commands import _output as out
from appliance.contracts import FlowError
from appliance.paths import find_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.flowbook import FlowBook
    from appliance.kernel.client import KernelClient
    from appliance.registry import Registry
    from appliance.security.audit import AuditLog
    from appliance.security.roles import Identity
    from appliance.security.vault import Secrets
    from appliance.store.history import History
    from appliance.store.metadata import Store


class NoEngine(FlowError):
    """There is no engine in the data folder."""

    id = "no-engine"
    retryable = False


class Session:
    """What a command works with. A context manager; the commands themselves close nothing."""

    def __init__(self, data: Path | None, *, as_json: bool = False, debug: bool = False) -> None:
        self._given = data
        self.as_json = as_json
        self.debug = debug
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.debug:
            logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(levelname)s: %(message)s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- answers -----------------------------------------------------------------------------------

    def fail(self, error_id: str, message: str, detail: Any = None, **more: Any) -> None:
        """Say what went wrong: a line on standard error, or JSON on standard output."""
        if self.as_json:
            error = {"id": error_id, "message": message, **more}
            out.emit({"error": error if detail is None else {**error, "detail": detail}})
        else:
            out.say(f"Error: {out.plain(message)}", err=True, color="red")

    def done(self, value: Any, text: str) -> None:
        """The answer of a command that has done something."""
        if self.as_json:
            out.emit(value)
        else:
            out.say(text)

    def note(self, text: str) -> None:
        """Something to know beside the answer; not in JSON."""
        if not self.as_json:
            out.say(out.plain(text), err=True)

    # --- the engine's parts ------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """The data folder, whether there is an engine in it or not."""
        return find_folder(self._given)

    @property
    def has_engine(self) -> bool:
        """Whether the first start was completed here."""
        from appliance.store.places import database_url

        has_store = bool(database_url()) or (self.folder / "flowork.db").exists()
        return has_store and (self.folder / "keys" / "engine.json").exists()

    def need_engine(self) -> Path:
        """The data folder of an engine. Raises ``NoEngine``."""
        if not self.has_engine:
            raise NoEngine(
                f"there is no engine in {self.folder}; make one with `flowork init`, or choose another with --data"
            )
        return self.folder

    def need_identity(self) -> Path:
        """The folder of an engine, wherever its flows are. Raises ``NoEngine``."""
        if not (self.folder / "keys" / "engine.json").exists():
            raise NoEngine(f"there is no engine in {self.folder}; choose another folder with --data")
        return self.folder

    @cached_property
    def store(self) -> Store:
        from appliance.store.metadata import open_store

        store = open_store(self.need_engine())
        self._stack.callback(store.close)
        if store.report.loss:
            self.note(f"Warning: {store.report.message}")
        return store

    @cached_property
    def history(self) -> History:
        from appliance.store.places import make_history

        history = make_history(self.need_engine())
        self._stack.callback(history.close)
        return history

    @cached_property
    def client(self) -> KernelClient:
        from appliance.kernel.reach import reach

        client = reach(self.need_engine(), self._flow_of, visitor=True)
        self._stack.callback(client.close)
        return client

    def _flow_of(self, run: str) -> int:
        """The number of a run's flow. Raises ``NotFound``."""
        from appliance.gateway.naming import no_run
        from appliance.store.runids import from_text

        try:
            head = self.history.head(from_text(run))
        except ValueError:
            head = None
        if head is None:
            raise no_run(run)
        return head.flow

    @cached_property
    def registry(self) -> Registry:
        from appliance.registry import Registry

        return Registry().scan(self.folder / "packages")

    @cached_property
    def identity(self) -> Identity:
        """The person at the box, who counts as owner."""
        from appliance.security.roles import local_identity

        try:
            return local_identity(getpass.getuser())
        except (OSError, KeyError):  # a user id without a name, as in some containers
            return local_identity("somebody")

    @cached_property
    def secrets(self) -> Secrets:
        from appliance.security.vault import Secrets

        return Secrets(self.store.values.secrets, self.folder)

    @cached_property
    def audit_log(self) -> AuditLog:
        from appliance.security.audit import AuditLog
        from appliance.security.scrub import Scrubber

        opened = self.secrets.open_all()
        scrubber = Scrubber(secret for values in opened.values.values() for secret in values.values())
        return AuditLog(self.store.audit, self.folder, scrubber=scrubber)

    @cached_property
    def book(self) -> FlowBook:
        from appliance.flowbook import FlowBook

        return FlowBook(self.store, self.registry, self.audit_log, self.client)

    def audit(
        self, action: str, target: str = "", detail: Mapping[str, Any] | None = None, *, workspace: str = ""
    ) -> None:
        """Write down that the person at the box has done something."""
        self.audit_log.append(self.identity.label, action, target, detail, workspace=workspace)

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> Any:
        """Ask the running kernel. Raises ``KernelAway`` that says how to start it."""
        from appliance.kernel.client import KernelAway

        try:
            return self.client.call(method, timeout, **params)
        except KernelAway as exc:
            if exc.sent:
                raise
            raise KernelAway(f"the kernel of {self.folder} is not running; start it with `flowork up`") from None

    def reload(self) -> bool:
        """Have a running kernel read what was changed; False if none runs."""
        from appliance.kernel.client import KernelAway

        try:
            self.client.call("reload")
        except KernelAway:
            return False
        return True

    def status(self) -> dict[str, Any] | None:
        """What the running kernel says of itself; None if none runs."""
        from appliance.kernel.client import KernelAway

        try:
            found: dict[str, Any] = self.client.call("status", 10.0)
        except KernelAway:
            return None
        try:
            return {**found, "agents": self.client.call("agents", 10.0)}
        except FlowError:  # it has no devices: it is one of a cluster
            return found
