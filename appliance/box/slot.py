"""``flowork-slot``: looks at the box's two system slots, writes the one that does not run, has it tried, goes back.

    flowork-slot status [--json]
    flowork-slot write FILE [--sha256 HEX]     FILE is a .slot file of scripts/image, or - for standard input
    flowork-slot try [--reboot]                the other slot at the next boot; back by itself after three failed ones
    flowork-slot good                          the running slot stays
    flowork-slot back [--reboot]               the next boot is from the other slot
    flowork-slot watch                         in a trial boot: `good` after five good minutes, else a reboot

Exit codes: 0 done, 1 failed, 2 written wrongly, 4 not in this state. See images/README.md.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from appliance.box import slots
from appliance.box.place import Box, BoxError
from appliance.box.slots import SlotError
from appliance.box.voice import complain, say
from appliance.box.watch import Watch

_LOCK = Path("/run/flowork/slot.lock")


def main(arguments: list[str] | None = None, box: Box | None = None) -> int:
    """The command line; the exit code."""
    given = _parser().parse_args(arguments)
    box = box or Box()
    try:
        if given.verb == "status":
            return _status(box, given.json)
        if given.verb == "watch":
            return Watch(box, steady=given.steady, limit=given.limit).run()
        if os.geteuid() != 0 and box.root == Path("/"):
            raise BoxError("this is for root: sudo flowork-slot …")
        with _Alone(box):
            return _VERBS[given.verb](box, given)
    except SlotError as exc:
        complain(f"flowork-slot: {exc}")
        return 4
    except (BoxError, OSError, subprocess.CalledProcessError) as exc:
        complain(f"flowork-slot: {exc}")
        return 1


def _status(box: Box, as_json: bool) -> int:
    choice, running = box.choice(), box.running()
    told = {
        "running": running,
        "trial": box.trial(),
        "good": choice.good,
        "next": choice.next,
        "trying": choice.trying,
        "left": choice.left,
        "failed": choice.failed,
        "slots": {name: box.image_of(slots.slot_name(name)) for name in "ab"},
    }
    if as_json:
        say(json.dumps(told))
        return 0
    for name in "ab":
        image = box.image_of(slots.slot_name(name))
        marks = [
            text
            for text, yes in (
                ("running", running == name),
                ("being tried", running == name and box.trial()),
                ("good", choice.good == name),
                (
                    "to be tried once more" if choice.left == 1 else f"to be tried {choice.left} more times",
                    choice.trying == name and choice.left > 0,
                ),
                ("FAILED three times", choice.failed == name),
            )
            if yes
        ]
        say(f"{name}  {image['version'] if image else 'empty':24} {', '.join(marks)}".rstrip())
    return 0


def _write(box: Box, given: argparse.Namespace) -> int:
    target = slots.writable(box.running(), box.trial())
    choice = box.choice()
    if choice.trying:
        box.tell(slots.Choice(choice.good))
    if given.file == "-":
        version = box.write_slot(target, sys.stdin.buffer, given.sha256)
    else:
        with Path(given.file).open("rb") as file:
            version = box.write_slot(target, file, given.sha256)
    say(f"slot {target} holds {version}; `flowork-slot try --reboot` tries it")
    return 0


def _try(box: Box, given: argparse.Namespace) -> int:
    choice = slots.begin_trial(box.choice(), box.running(), box.trial())
    target = slots.other(box.running())
    if box.image_of(target) is None:
        raise SlotError(f"slot {target} holds no whole system; `flowork-slot write FILE` first")
    box.tell(choice)
    say(f"slot {target} is tried at the next boot")
    return _reboot(given)


def _good(box: Box, given: argparse.Namespace) -> int:
    box.tell(slots.accept(box.choice(), box.running()))
    say(f"slot {box.running()} is good")
    return 0


def _back(box: Box, given: argparse.Namespace) -> int:
    running = box.running()
    choice = slots.go_back(box.choice(), running, box.trial(), box.image_of(slots.other(running)) is not None)
    box.tell(choice)
    say(f"the next boot is from slot {choice.next}")
    return _reboot(given)


def _reboot(given: argparse.Namespace) -> int:
    if given.reboot:
        subprocess.run(["systemctl", "reboot"], check=True)
    return 0


_VERBS: dict[str, Callable[[Box, argparse.Namespace], int]] = {
    "write": _write,
    "try": _try,
    "good": _good,
    "back": _back,
}


class _Alone:
    """One change at a time; the lock is gone with the process."""

    def __init__(self, box: Box) -> None:
        self._path = box.root / _LOCK.relative_to("/")
        self._fd = -1

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise BoxError("another flowork-slot is at work") from None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flowork-slot", description="The two system slots of this box.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    status = verbs.add_parser("status", help="what runs, what is good, what is tried")
    status.add_argument("--json", action="store_true")
    write = verbs.add_parser("write", help="write a system into the slot that does not run")
    write.add_argument("file", help="a .slot file, or - for standard input")
    write.add_argument("--sha256", help="refuse a file that is not this one")
    for verb, text in (("try", "try the other slot at the next boot"), ("back", "go back to the other slot")):
        verbs.add_parser(verb, help=text).add_argument("--reboot", action="store_true", help="and start it now")
    verbs.add_parser("good", help="keep the running slot")
    watch = verbs.add_parser("watch", help="in a trial boot: judge it")
    watch.add_argument("--steady", type=float, default=300.0, help="seconds it has to be well without a break (300)")
    watch.add_argument("--limit", type=float, default=900.0, help="seconds after which it has failed (900)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
