"""Takes another version from the appliance, and sees that it is well once it runs.

A package is asked for piece by piece, one at a time, and goes on where it was cut off. It is looked at and unpacked by
:mod:`edge_agent.install`, a process of its own; then the agent ends, and :mod:`edge_agent.launcher` tries the version.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.config import write_atomic
from edge_agent.launcher import FAULT, TRIAL, VERSION, WELL
from edge_agent.protocol.messages import Message, Offer, Piece, Update, Want
from edge_agent.versions import Trial, Versions

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

#: Seconds that looking at a package may take on a small machine.
PATIENCE = 300.0

Standing = Callable[[], Mapping[str, tuple[bool, str]]]


class Updating:
    """Used on the agent's loop. ``post`` brings a call there from any thread, ``changed`` is called whenever
    :attr:`update` is another, ``restart`` ends the agent so that the launcher begins anew. ``standing`` says of each
    driver that is wanted whether it runs, and what about it. ``well_for``: seconds.
    """

    def __init__(
        self,
        folder: Path,
        well_for: float,
        why_not: str,
        send: Callable[[Message], None],
        post: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
        restart: Callable[[], None],
        standing: Standing,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.update: Update | None = None
        self._versions = Versions(folder)
        self._well_for = well_for
        self._why_not = why_not
        self._send = send
        self._post = post
        self._changed = changed
        self._restart = restart
        self._standing = standing
        self._name = environ.get(VERSION, "")
        self._pipe = int(environ.get(TRIAL, -1))
        self._fault = Path(environ.get(FAULT, os.devnull))
        self._trial: Trial | None = None
        self._well_since = 0.0
        self._linked = False
        self._digest = ""
        self._version = ""
        self._size = 0
        self._restarting = False
        self._checking: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what an earlier process has left. Of a package that had not come whole the appliance is told, and
        offers it again.
        """
        state = self._versions.read()
        self.update = state.last
        if self._name and state.trial is not None and state.trial.name == self._name:
            self._trial = state.trial
            self.update = Update(
                state.trial.version, "trial", "the new version runs, and is being watched", time.time()
            )

    def stop(self) -> None:
        """Twice is fine."""
        if (child := self._child) is not None:
            child.terminate()
        if self._checking is not None:
            self._checking.join(10.0)
        if self._trial is not None:
            self._fault.write_text(self._unwell() or "it was stopped before its trial was over")

    def linked(self, up: bool) -> None:
        """The appliance has said what it wants, or is gone."""
        self._linked = up
        self._well_since = 0.0

    def tick(self, now: float) -> list[float]:
        """Look whether a version on trial is well; the moments (monotonic) at which to look again."""
        if self._trial is None:
            return []
        if self._unwell():
            self._well_since = 0.0
            return [now + 1.0]
        self._well_since = self._well_since or now
        if now < self._well_since + self._well_for:
            return [self._well_since + self._well_for]
        self._passed(self._trial)
        return [now + 1.0] if self._trial is not None else []

    # --- the trial ------------------------------------------------------------------------------

    def _unwell(self) -> str:
        """Why this version cannot be said to be well yet, or nothing."""
        if not self._linked:
            return "it was not connected to the appliance"
        standing = self._standing()
        for key in self._trial.ran if self._trial is not None else ():
            ok, text = standing.get(key, (True, ""))
            if not ok:
                return f"a driver that ran before does not: {text}"
        return ""

    def _passed(self, trial: Trial) -> None:
        state = self._versions.read()
        state.chosen, state.trial = trial.name, None
        state.last = Update(trial.version, "updated", f"version {trial.version} runs", time.time())
        try:
            self._versions.write(state)
        except OSError as exc:
            logger.error("that version %s is well cannot be kept: %s", trial.version, exc.strerror)
            self._well_since = 0.0  # once more
            return
        with suppress(OSError):  # the launcher has gone; the next one reads it in the state
            os.write(self._pipe, WELL)
        logger.info("version %s has passed its trial", trial.version)
        self._trial, self.update = None, state.last
        self._versions.prune(lambda name: name == trial.name)
        self._changed()

    # --- receiving ------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """The appliance has a version for this agent."""
        if self._checking is not None or self._restarting:
            return  # with this one, or the one before it
        self._version, self._digest = offer.version, offer.digest
        if self._why_not:
            self._ended(self._why_not)
        elif self._trial is not None:
            self._ended(f"version {self._trial.version} is on trial: wait for its end")
        elif len(offer.digest) != 64 or not offer.digest.isalnum():
            self._ended("the offer is not one")
        else:
            try:
                self._make_room(offer)
            except OSError as exc:
                self._ended(_disk(exc))
                return
            self._run("offer", self._looked)

    def _make_room(self, offer: Offer) -> None:
        """Only what belongs to this package stays of what was on its way."""
        incoming = self._versions.incoming
        self._versions.folder.mkdir(mode=0o700, exist_ok=True)
        self._versions.prune(lambda name: name in (self._name, incoming.name))
        incoming.mkdir(mode=0o700, exist_ok=True)
        for path in incoming.iterdir():
            if path.stem != offer.digest:
                path.unlink()
        write_atomic(self._place("offer"), msgspec.msgpack.encode([offer.manifest, offer.signature]))

    def _looked(self, found: dict[str, str | int]) -> None:
        self._size = int(found["size"])
        self._say("receiving")
        self._keep()
        self._ask()

    def _ask(self) -> None:
        try:
            have = self._place("part").stat().st_size
        except FileNotFoundError:
            have = 0
        if have < self._size:
            self._send(Want(digest=self._digest, offset=have))
        else:
            self._say("checking")
            self._run("unpack", self._unpacked)

    def piece(self, piece: Piece) -> None:
        """A part of what was asked for."""
        if piece.digest != self._digest or self.update is None or self.update.phase != "receiving":
            return
        try:
            with self._place("part").open("ab") as file:
                if file.tell() != piece.offset:
                    return
                file.write(piece.data[: self._size - piece.offset])
        except OSError as exc:
            self._ended(_disk(exc))
            return
        self._ask()

    def _unpacked(self, found: dict[str, str | int]) -> None:
        ran = [key for key, (ok, _) in self._standing().items() if ok]
        self._say("restarting")
        if self._keep(Trial(str(found["name"]), self._version, 0, ran)):
            logger.info("version %s is in place: the agent starts again", self._version)
            self._restarting = True
            self._restart()

    def _place(self, what: str) -> Path:
        return self._versions.incoming / f"{self._digest}.{what}"

    # --- words ----------------------------------------------------------------------------------

    def _say(self, phase: str, text: str = "") -> None:
        self.update = Update(self._version, phase, text, time.time())
        self._changed()

    def _keep(self, trial: Trial | None = None) -> bool:
        """Note how it stands, for the appliance and for the next start."""
        state = self._versions.read()
        state.last, state.trial = self.update, trial
        try:
            self._versions.write(state)
        except OSError as exc:
            logger.error("how the update stands cannot be kept: %s", exc.strerror)
            self._say("refused", _disk(exc))
            return False
        return True

    def _ended(self, text: str) -> None:
        """It came to nothing, and that is kept for the appliance."""
        logger.warning("the update is refused: %s", text)
        self._say("refused", text)
        if self._keep(self._trial) and self._trial is None:
            self._versions.prune(lambda name: name == self._name)

    def _run(self, verb: str, then: Callable[[dict[str, str | int]], None]) -> None:
        """Have a package looked at, or unpacked; ``then`` is called on the loop if it is in order."""
        self._checking = threading.Thread(
            target=self._work, args=(verb, self._digest, then), name="update", daemon=True
        )
        self._checking.start()

    def _work(self, verb: str, digest: str, then: Callable[[dict[str, str | int]], None]) -> None:
        import subprocess

        command = [sys.executable, "-m", "edge_agent.install", verb, str(self._versions.folder), digest]
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
                self._child = child
                try:
                    out, _ = child.communicate(timeout=PATIENCE)
                finally:
                    child.kill()
            found = msgspec.json.decode(out, type=dict[str, str | int])
        except (OSError, subprocess.SubprocessError, ValueError) as exc:
            found = {"error": f"the package could not be looked at: {exc}"}
        self._post(partial(self._done, found, then))

    def _done(self, found: dict[str, str | int], then: Callable[[dict[str, str | int]], None]) -> None:
        self._checking = self._child = None
        if error := str(found.get("error", "")):
            self._ended(error)
        else:
            then(found)


def _disk(exc: OSError) -> str:
    return f"the disk does not take the update: {(exc.strerror or str(exc)).lower()}"
