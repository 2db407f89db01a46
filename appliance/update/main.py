"""``flowork-updater``: the part of updating that root does, and that the user ``flowork`` does for it.

sudo flowork-updater apply FILE     verify a release and bring it in; how it ended
sudo flowork-updater trust KEY …    let releases that are signed with this (public) key in; the rest is a note
sudo flowork-updater back           return to the version before the last update
flowork-updater status              what it is at, as JSON
flowork-updater serve               carry out what the panel has asked for, or go on after a cut (the unit does)
sudo flowork-updater seal           note and sign what the installed files are now (the installer does)
flowork-updater rehearse            as the user flowork: try this version's form of the database on a copy
flowork-updater step-back           as the user flowork: take this version's form of the database out again
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from appliance import integrity
from appliance.box.place import Box, BoxError
from appliance.contracts import FlowError
from appliance.paths import INSTALLED, find_folder
from appliance.security import signatures
from appliance.store.migrations import rehearse, step_back
from appliance.store.schema import MIGRATIONS
from appliance.update.machine import Systemd, Undone, write_slot
from appliance.update.updater import GO_BACK, IMAGE, INCOMING, OPT, PLACE, UNDER_WAY, Updater


def main() -> int:
    """The exit code: 0 done, 1 not, 2 written wrongly."""
    words = sys.argv[1:]
    try:
        return _WORDS[words[0]](words[1:])
    except (IndexError, KeyError):
        sys.stderr.write(__doc__ or "")
        return 2
    except (FlowError, OSError, ValueError) as exc:
        sys.stderr.write(f"flowork-updater: {exc}\n")
        return 1


def make_updater() -> Updater:
    """For this machine."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Updater(
        OPT,
        PLACE,
        Systemd(INSTALLED),
        about=(platform.machine(), python),
        newest_schema=MIGRATIONS[-1].number,
    )


def _apply(words: Sequence[str]) -> int:
    (name,) = words
    return _bring(Path(name).absolute())


def _bring(file: Path) -> int:
    if not (OPT / "current").is_symlink():
        raise Undone("Flowork was not installed here by scripts/install; a checkout is updated with git")
    with _alone():
        updater = make_updater()
        state = updater.bring_system(file, write_slot, alone=IMAGE.exists()) or updater.apply(file)
    sys.stdout.write(f"{state.phase}: {state.reason or state.version}\n")
    return 0 if state.phase in ("done", "written") else 1


def _back(words: Sequence[str]) -> int:
    with _alone():
        state = make_updater().go_back()
    sys.stdout.write(f"{state.phase}: {state.reason}\n")
    return 0 if state.phase == "rolled-back" else 1


def _trust(words: Sequence[str]) -> int:
    signatures.verified(words[0], b"", bytes(signatures.SIGNATURE))  # raises for what is no key
    PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    file = PLACE / "trusted"
    known = file.read_text(encoding="ascii") if file.exists() else ""
    if words[0] not in known.split():
        file.write_text(f"{known}{' '.join(words)}\n", encoding="ascii")
    file.chmod(0o644)  # who looks at a release as the user flowork verifies it too
    sys.stdout.write(f"releases signed with {words[0]} are let in\n")
    return 0


def _status(words: Sequence[str]) -> int:
    state = make_updater().state
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")
    return 0


def _seal(words: Sequence[str]) -> int:
    PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    release = Path(words[0]) if words else OPT / "current"
    integrity.seal(release.resolve(), integrity.private_key(PLACE / "integrity.key"))
    return 0


def _serve(words: Sequence[str]) -> int:
    """What the unit runs: at a start of the machine, and whenever a file has come."""
    file = INSTALLED / INCOMING
    with _alone():
        updater = make_updater()
        if updater.state.phase in UNDER_WAY:
            updater.resume()
        elif IMAGE.exists():
            try:
                updater.settle_system(Box())
            except BoxError as exc:
                sys.stderr.write(f"flowork-updater: how the last update did is not known: {exc}\n")
    if (asked := INSTALLED / GO_BACK).exists():
        asked.unlink()
        return _back(())
    if not file.exists():
        return 0
    try:
        return _bring(file)
    finally:
        file.unlink(missing_ok=True)


def _rehearse(words: Sequence[str]) -> int:
    path = find_folder() / "flowork.db"
    # In a database server each step is one transaction that fails as a whole: nothing needs a rehearsal there.
    for step in rehearse(path) if path.exists() else ():
        sys.stdout.write(f"would change the database: {step.title}\n")
    return 0


def _step_back(words: Sequence[str]) -> int:
    path = find_folder() / "flowork.db"
    if path.exists() and (aside := step_back(path)):
        sys.stdout.write(f"the database is again in the form of this version; the newer one is {aside}\n")
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """One update at a time."""
    PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(PLACE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Undone("another update is under way; see `flowork update`") from None
        yield
    finally:
        os.close(handle)


_WORDS = {
    "apply": _apply,
    "back": _back,
    "trust": _trust,
    "status": _status,
    "seal": _seal,
    "serve": _serve,
    "rehearse": _rehearse,
    "step-back": _step_back,
}
