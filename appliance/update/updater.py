"""Brings a release in where Flowork is installed: verified, tried, and gone again if it does not do well.

It runs as root, on its own (``flowork-update.service``), so it trusts nothing that the user ``flowork`` could have
written: a release file is copied to a place of root's before it is looked at. What it is at is in ``state.json``, which
everybody may read; after a power cut it goes on from there. The moments:

``unpacking`` → ``preparing`` (a virtual environment beside the one in use) → ``rehearsing`` (the database's new form is
tried on a copy) → ``switching`` (the link changes, everything is started anew) → ``watching`` (five minutes in which
all must stay well) → ``done``; or ``returning`` → ``rolled-back``; or ``refused``; both with the reason. The release
before stays until the next update, for who wants to go back by hand: as long as both write the same form of the
database nothing is lost by that.

A release that is a whole system (for a box that was flashed with an image) is ``written``: it is tried at the next
start of the machine, and ``done`` or ``rolled-back`` once that is decided.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Protocol

import msgspec
from msgspec import Struct

from appliance.box.place import Box
from appliance.contracts import FlowError
from appliance.update.release import BadRelease, Manifest, Release, open_file

#: Where the installer puts the program; root's own folder, in which everybody may read ``state.json``; and what the
#: user ``flowork`` leaves for root, in its data folder.
OPT, PLACE, INCOMING = Path("/opt/flowork"), Path("/var/lib/flowork-update"), "update/incoming.flowork"
#: What a box that was flashed with an image has.
IMAGE = Path("/etc/flowork-image")
#: What it leaves to ask for the release before.
GO_BACK = "update/go-back"
#: In root's own folder: the file of the newest release that has done well, for engines that ask this one for it.
LAST = "last.flowork"
#: Seconds that all must stay well, that it may take to become so, and between two looks.
STEADY, LIMIT, PACE = 300.0, 900.0, 5.0
#: What ``release`` is for a whole system.
SLOTS = ("a", "b")
#: The phases in which an update is under way.
UNDER_WAY = ("unpacking", "preparing", "rehearsing", "switching", "watching", "returning")


class UpdateState(Struct, frozen=True, kw_only=True):
    """What the updater is at, or how the last update ended. Times are Unix seconds.

    ``before`` and ``release`` are folders; of a whole system ``release`` is the slot's name, and ``before`` is empty.
    ``well_since`` is since when all has been well without a break, while it is ``watching``; 0: it is not.
    """

    phase: str = "none"
    version: str = ""
    before: str = ""
    release: str = ""
    reason: str = ""
    at: float = 0.0
    well_since: float = 0.0
    #: The form of the database that the two write; 0 where it was not noted.
    schema: int = 0
    schema_before: int = 0


def read_trusted(place: Path) -> list[str]:
    """The public keys that may sign releases, a line each; what stands behind a key is its owner's note."""
    try:
        lines = (place / "trusted").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def why_no_way_back(state: UpdateState) -> str:
    """Why one cannot go back to the release before; empty if one can."""
    if state.phase == "done" and state.release in SLOTS:
        return "the system before is in the other slot: sudo flowork-slot back --reboot"
    if state.phase != "done" or not state.before or not (Path(state.before) / "complete").exists():
        return "there is no version before this one any more"
    if not state.schema or state.schema != state.schema_before:
        return "the database has another form since then; restore a backup of that time on a fresh installation instead"
    return ""


def read_state(place: Path) -> UpdateState:
    """What the updater of that folder is at; of a file that cannot be read nothing is known."""
    try:
        return msgspec.json.decode((place / "state.json").read_bytes(), type=UpdateState)
    except (OSError, msgspec.DecodeError):
        return UpdateState()


class Machine(Protocol):
    """What the updater does to the machine; each raises ``FlowError`` if it cannot be done."""

    def prepare(self, wheels: Path, release: Path) -> None:
        """Make a virtual environment ``release`` of nothing but the wheels in a folder."""

    def rehearse(self, release: Path) -> None:
        """Try the release's form of the database on a copy of it."""

    def restart(self) -> None:
        """Start everything anew from ``current``."""

    def stop(self) -> None:
        """Stop everything."""

    def step_back(self, release: Path) -> None:
        """Have an older release take its own form of the database out again, if the newer one has changed it."""

    def well(self) -> bool:
        """Whether all parts run and answer."""


class Updater:
    """One machine's updates. ``opt`` holds ``releases/`` and ``current``, ``place`` is root's own folder."""

    def __init__(
        self,
        opt: Path,
        place: Path,
        machine: Machine,
        *,
        about: tuple[str, str],
        newest_schema: int,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``about`` is what this machine is (as ``uname -m`` says) and its Python, like ``3.11``."""
        self._opt = opt
        self._place = place
        self._machine = machine
        self._about = about
        self._schema = newest_schema
        self._now = now
        self._clock = clock
        self._sleep = sleep

    # --- what it is at -----------------------------------------------------------------------------------

    @property
    def state(self) -> UpdateState:
        """See :func:`read_state`."""
        return read_state(self._place)

    def _tell(self, state: UpdateState) -> UpdateState:
        return self._note(msgspec.structs.replace(state, at=self._now()))

    def _note(self, told: UpdateState) -> UpdateState:
        self._place.mkdir(parents=True, exist_ok=True)
        self._place.chmod(0o755)  # whatever the umask
        unfinished = self._place / "state.json.part"
        with unfinished.open("wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        unfinished.chmod(0o644)
        unfinished.rename(self._place / "state.json")
        _sync(self._place)
        return told

    def trusted(self) -> list[str]:
        """The public keys that may sign releases."""
        return read_trusted(self._place)

    # --- bringing one in ---------------------------------------------------------------------------------

    def apply(self, source: Path) -> UpdateState:
        """Bring in a release file; how it ended. Raises nothing for a bad one: that is a state, ``refused``."""
        if self.state.phase in UNDER_WAY:
            return self.resume()
        before = str((self._opt / "current").readlink())
        state = UpdateState(phase="unpacking", before=before, schema_before=self._schema)
        release: Path | None = None
        try:
            staged = self._taken(source)
            with staged.open("rb") as opened:
                file = Release(opened, self.trusted())
                manifest = file.open()
                self._check(manifest)
                release = self._opt / "releases" / f"{manifest.version}-{manifest.made}"
                if str(release) == before:
                    raise BadRelease(f"version {manifest.version} is what runs already")
                about = {"version": manifest.version, "release": str(release), "schema": manifest.schema}
                state = self._tell(msgspec.structs.replace(state, **about))
                wheels = self._fresh("wheels")
                file.unpack(wheels)
            state = self._tell(msgspec.structs.replace(state, phase="preparing"))
            self._prepare(wheels, release)
            state = self._tell(msgspec.structs.replace(state, phase="rehearsing"))
            self._machine.rehearse(release)
        except (FlowError, OSError) as exc:
            self._clear(release, before)
            return self._tell(msgspec.structs.replace(state, phase="refused", reason=str(exc)))
        return self._switch(state)

    def bring_system(self, source: Path, write: Callable[[Path], str], *, alone: bool = False) -> UpdateState | None:
        """Bring in a release that is a whole system; how it ended, None for any other (``apply`` tells why not).

        ``write`` puts it into the slot that does not run, has it tried at the next start of the machine, and gives the
        slot's name; what is not well then is left by the image's own tools. With ``alone`` anything else is refused: a
        flashed box has its program in the system, which is read-only.
        """
        if self.state.phase in UNDER_WAY:
            return self.resume()
        state = UpdateState(phase="unpacking", schema_before=self._schema)
        with ExitStack() as held:
            try:
                release = Release(held.enter_context(open_file(source)), self.trusted())
                manifest = release.open()
                if manifest.kind != "slot":
                    raise BadRelease("this is no release of a whole system, which is all that a flashed box takes")
            except (BadRelease, OSError) as exc:
                return self._tell(UpdateState(phase="refused", reason=str(exc))) if alone else None
            state = msgspec.structs.replace(state, version=manifest.version, schema=manifest.schema)
            try:
                self._check_machine(manifest)
                self._check_schema(manifest)
                state = self._tell(state)
                folder = self._fresh("slot")
                release.unpack(folder)
                (file,) = [folder / name for name in manifest.files]
                state = self._tell(msgspec.structs.replace(state, phase="preparing"))
                slot = write(file)
                shutil.rmtree(folder)
                self._keep_system(source)
            except (FlowError, OSError, ValueError) as exc:
                self._clear(None, "")
                return self._tell(msgspec.structs.replace(state, phase="refused", reason=str(exc)))
        self._clear(None, "")
        reason = (
            "it is tried at the next start of the machine, when it suits you (`sudo reboot`); what is not well then "
            "goes back to the system of now by itself"
        )
        return self._tell(msgspec.structs.replace(state, phase="written", release=slot, reason=reason))

    def settle_system(self, box: Box) -> UpdateState:
        """How a whole system that was ``written`` has done since; it may still be open. Raises ``BoxError``."""
        state = self.state
        if state.phase != "written" or state.release not in SLOTS:
            return state
        choice, runs = box.choice(), box.running() == state.release
        phase, reason = state.phase, state.reason
        if choice.failed == state.release:
            phase, reason = "rolled-back", "three starts of it did not do well; the system before runs again"
        elif runs and box.trial():
            reason = "it runs, and stays once all has been well for five minutes"
        elif runs:
            phase, reason = "done", ""
        elif choice.trying != state.release:
            phase, reason = "rolled-back", "somebody went back to the system before"
        if (phase, reason) == (state.phase, state.reason):
            return state
        return self._tell(msgspec.structs.replace(state, phase=phase, reason=reason))

    def _taken(self, source: Path) -> Path:
        """A copy of root's own: whoever wrote the file cannot change it any more."""
        target = self._fresh("staged") / "release"
        with open_file(source) as opened:
            free = shutil.disk_usage(self._place).free
            if os.fstat(opened.fileno()).st_size * 4 > free:
                raise BadRelease(f"the disk has {free // 1_000_000} MB left; this update needs four times its size")
            _copy(opened, target)
        return target

    def _keep(self, file: Path) -> None:
        """Have a release at hand for other engines, instead of the one before; a rename."""
        if file.exists():
            file.chmod(0o644)
            file.rename(self._place / LAST)

    def _keep_system(self, source: Path) -> None:
        """The same for a whole system; where there is little room, none is kept."""
        (self._place / LAST).unlink(missing_ok=True)
        copy = self._fresh("staged") / "release"
        with open_file(source) as opened:
            if os.fstat(opened.fileno()).st_size * 2 < shutil.disk_usage(self._place).free:
                _copy(opened, copy)
                self._keep(copy)

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(folder := self._place / name, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def _check(self, manifest: Manifest) -> None:
        machine, python = self._about
        if manifest.kind != "wheels":
            raise BadRelease("this release is a whole system, for a flashed image; here the program alone is updated")
        if manifest.python != python:
            here = f"{machine} with Python {python}"
            raise BadRelease(f"this release is for {manifest.machine} with Python {manifest.python}; this is {here}")
        self._check_machine(manifest)
        self._check_schema(manifest)

    def _check_machine(self, manifest: Manifest) -> None:
        machine = self._about[0]
        if manifest.machine not in (machine, "any"):
            raise BadRelease(f"this release is for {manifest.machine}; this is {machine}")

    def _check_schema(self, manifest: Manifest) -> None:
        if manifest.schema < self._schema:
            raise BadRelease(
                f"version {manifest.version} is older and cannot read this engine's database; restore a backup of its "
                "time on a fresh installation instead"
            )

    def _prepare(self, wheels: Path, release: Path) -> None:
        shutil.rmtree(release, ignore_errors=True)
        self._machine.prepare(wheels, release)
        shutil.rmtree(wheels, ignore_errors=True)
        _sync(release)
        (release / "complete").touch()
        _sync(release)

    def _switch(self, state: UpdateState) -> UpdateState:
        state = self._tell(msgspec.structs.replace(state, phase="switching"))
        try:
            self._machine.stop()
            self._point(state.release)
            self._machine.restart()
        except FlowError as exc:
            return self._back(state, f"it does not start: {exc.message}")
        return self._watch(self._tell(msgspec.structs.replace(state, phase="watching")))

    def _watch(self, state: UpdateState) -> UpdateState:
        """Good once all was well for some minutes without a break."""
        began = self._clock()
        since: float | None = None
        state = msgspec.structs.replace(state, well_since=0.0)
        while True:
            moment = self._clock()
            if self._machine.well():
                since = moment if since is None else since
                if moment - since >= STEADY:
                    break
            else:
                since = None
            if (since is None) is bool(state.well_since):
                well_since = 0.0 if since is None else self._now()
                state = self._note(msgspec.structs.replace(state, well_since=well_since))  # ``at`` stays
            if since is None and moment - began >= LIMIT:
                return self._back(state, f"it was not well for {LIMIT:g} seconds")
            self._sleep(PACE)
        self._drop_others(state.release, state.before)
        self._keep(self._place / "staged" / "release")
        self._clear(None, "")
        return self._tell(msgspec.structs.replace(state, phase="done", well_since=0.0))

    def _back(self, state: UpdateState, reason: str) -> UpdateState:
        """The release before, with its form of the database."""
        state = self._tell(msgspec.structs.replace(state, phase="returning", reason=reason, well_since=0.0))
        with suppress(FlowError):
            self._machine.stop()
        self._point(state.before)
        try:
            self._machine.step_back(Path(state.before))
            self._machine.restart()
        except FlowError as exc:
            reason = f"{reason}; and the version before does not start either: {exc.message}"
        self._clear(Path(state.release), state.before)
        return self._tell(msgspec.structs.replace(state, phase="rolled-back", reason=reason))

    def go_back(self) -> UpdateState:
        """Return to the release before, because somebody asks for it. Raises ``BadRelease``."""
        state = self.state
        if why := why_no_way_back(state):
            raise BadRelease(why)
        return self._back(state, "somebody asked for the version before")

    def resume(self) -> UpdateState:
        """After a start of the machine: an update that was cut off is thrown away or gone on with."""
        state = self.state
        if state.phase in ("unpacking", "preparing", "rehearsing"):
            self._clear(Path(state.release) if state.release else None, state.before)
            return self._tell(msgspec.structs.replace(state, phase="refused", reason="the machine was switched off"))
        if state.phase == "switching":
            # The link says on which side of its change the power went.
            return self._switch(state)
        if state.phase == "returning":
            return self._back(state, state.reason)
        return self._watch(state) if state.phase == "watching" else state

    # --- small things ------------------------------------------------------------------------------------

    def _point(self, release: str) -> None:
        link = self._opt / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(release)
        link.rename(self._opt / "current")
        _sync(self._opt)

    def _clear(self, release: Path | None, before: str) -> None:
        for name in ("staged", "wheels", "slot"):
            shutil.rmtree(self._place / name, ignore_errors=True)
        if release is not None and str(release) != before:
            shutil.rmtree(release, ignore_errors=True)

    def _drop_others(self, *kept: str) -> None:
        for folder in (self._opt / "releases").iterdir():
            if str(folder) not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _copy(opened: IO[bytes], target: Path) -> None:
    with target.open("xb") as out:
        shutil.copyfileobj(opened, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
