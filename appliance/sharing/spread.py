"""Which kernel each flow belongs to: worked out by every kernel alike, from what all of them can see.

Flows that meet in memory (one starts another, or follows its runs) stay together; groups are spread evenly over the
living kernels by rendezvous hashing with bounded loads, so that a kernel that comes or goes moves few of them. A flow
with a tag ``on:<machine>`` belongs, with its group, to kernels of that machine only.

Hashing: Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); bounds: Mirrokni, Thorup,
Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

PIN = "on:"


class Placed(Struct, frozen=True):
    """What is to be known of a flow. ``named``: what :func:`names_in` finds in its live version."""

    num: int
    id: str
    workspace: str
    tags: tuple[str, ...]
    named: frozenset[str]


class Host(Struct, frozen=True):
    """A living kernel: its number, and the name of its machine."""

    writer: int
    machine: str


def groups_of(flows: Sequence[Placed]) -> list[list[Placed]]:
    """The flows that must be in one place, each group by number, the groups by their first flow."""
    leader = {flow.num: flow.num for flow in flows}

    def find(num: int) -> int:
        while leader[num] != num:
            leader[num] = leader[leader[num]]
            num = leader[num]
        return num

    for workspace in {flow.workspace for flow in flows}:
        here = [flow for flow in flows if flow.workspace == workspace]
        by_id = {flow.id: flow.num for flow in here}
        for flow in here:
            met = by_id.values() if _ANY in flow.named else (by_id[name] for name in flow.named & by_id.keys())
            for other in met:
                first, second = sorted((find(flow.num), find(other)))
                leader[second] = first
    groups: dict[int, list[Placed]] = {}
    for flow in sorted(flows, key=lambda one: one.num):
        groups.setdefault(find(flow.num), []).append(flow)
    return [groups[first] for first in sorted(groups)]


def spread(groups: Iterable[Sequence[Placed]], hosts: Sequence[Host]) -> dict[int, int]:
    """The writer of each flow's kernel; a flow whose machine has no living kernel has none."""
    placed: dict[int, int] = {}
    free = []
    for group in groups:
        pins = {tag.removeprefix(PIN) for flow in group for tag in flow.tags if tag.startswith(PIN)}
        if not pins:
            free.append(group)
        elif allowed := [host for host in hosts if host.machine in pins]:
            _place(group, _best(group, allowed), placed)
    bound = -(-len(free) // len(hosts)) if hosts else 0
    taken: Counter[int] = Counter()
    for group in sorted(free, key=lambda one: _score(one[0].num, -1)):
        if room := [host for host in hosts if taken[host.writer] < bound]:
            host = _best(group, room)
            taken[host.writer] += 1
            _place(group, host, placed)
    return placed


def _place(group: Sequence[Placed], host: Host, placed: dict[int, int]) -> None:
    placed.update((flow.num, host.writer) for flow in group)


def _best(group: Sequence[Placed], hosts: Sequence[Host]) -> Host:
    return max(hosts, key=lambda host: _score(group[0].num, host.writer))


def _score(group: int, writer: int) -> bytes:
    return hashlib.blake2b(f"{group}/{writer}".encode(), digest_size=8).digest()


#: Stands for every flow of the workspace: which one it will be is known only when it runs.
_ANY = "*"


def names_in(body: Any) -> frozenset[str]:
    """All texts in a flow's JSON that may be the id of a flow, and a ``*`` where that is worked out by a template."""
    found: set[str] = set()
    for trigger in body.get("triggers", ()) if isinstance(body, Mapping) else ():
        if isinstance(trigger, Mapping) and trigger.get("type") == "flow":
            _collect(trigger.get("config") or {}, "", found)
            if "flow" not in (trigger.get("config") or {}):
                found.add(_ANY)
    _collect(body, "", found)
    return frozenset(found)


def _collect(value: Any, key: str, found: set[str]) -> None:
    if isinstance(value, str):
        if key in {"flow", "flows", "tools"} and ("{" in value or value == "*"):
            found.add(_ANY)
        elif len(value) <= _LONGEST_ID:
            found.add(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NO_FLOW:
                _collect(inner, str(name), found)
    elif isinstance(value, list | tuple):
        for inner in value:
            _collect(inner, key, found)


_LONGEST_ID = 63
#: Keys whose texts name no other flow, whatever they are.
_NO_FLOW = {"name", "id", "type", "from", "to", "port", "description", "notes", "spec", "tags", "groups", "settings"}
