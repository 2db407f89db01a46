"""What a node needs of the engine that it runs on: ``model:NAME``, ``device:NAME``, ``engine:NAME`` or ``any``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from appliance.contracts import Problem
from appliance.contracts.peers import PeerState

MODEL, DEVICE, ENGINE, ANY = "model", "device", "engine", "any"
KINDS = (MODEL, DEVICE, ENGINE)
MOST = 8


class Need(NamedTuple):
    """One thing that must be there; ``any`` has no name."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def needs_of(given: str | Sequence[str]) -> tuple[Need, ...]:
    """What a node says, in order and each once; all of it has to be there. What is no need is left out."""
    return tuple(dict.fromkeys(need for text in _parts(given) if (need := _need(text)) is not None))


def faults(given: str | Sequence[str], place: str) -> Iterator[Problem]:
    """What is wrong with what a node says."""
    parts = _parts(given)
    if len(parts) > MOST:
        yield Problem(place, f"at most {MOST} needs")
    for index, text in enumerate(parts):
        if _need(text) is None:
            where = place if isinstance(given, str) else f"{place}[{index}]"
            yield Problem(where, f"{text!r} is no need: {_mend(text)}")


def satisfies(engine: PeerState, need: Need) -> bool:
    """Whether an engine has it, as far as it has told."""
    wanted = need.name.casefold()
    if need.kind == ENGINE:
        return wanted in {engine.id.casefold(), engine.name.casefold(), engine.calls_itself.casefold()}
    if need.kind == MODEL:
        return any(model.name.casefold() == wanted for model in engine.offers.models)
    if need.kind == DEVICE:
        return any(wanted in _names(device) for device in engine.offers.devices)
    return True


def needs_of_nodes(body: Any) -> Iterator[tuple[str, tuple[Need, ...]]]:
    """The kind and the needs of every node of a flow as saved that has some, those in bodies too."""
    nodes = body.get("nodes") if isinstance(body, Mapping) else None
    for node in nodes if isinstance(nodes, list) else ():
        if not isinstance(node, Mapping):
            continue
        given, config = node.get("needs"), node.get("config")
        if isinstance(given, str | list) and (found := needs_of(given)):
            yield str(node.get("type")), found
        if isinstance(config, Mapping):
            yield from needs_of_nodes(config.get("body"))


def _names(device: str) -> set[str]:
    """By what an ``agent/driver`` or ``agent/driver/entity`` may be asked for: whole, or by any of its parts."""
    whole = device.casefold()
    return {whole, *whole.split("/", 2)} - {""}


def _parts(given: str | Sequence[str]) -> list[str]:
    texts = given.split(",") if isinstance(given, str) else given
    return [part for text in texts if isinstance(text, str) and (part := text.strip())]


def _need(text: str) -> Need | None:
    if text == ANY:
        return Need(ANY, "")
    kind, _, name = text.partition(":")
    name = name.strip()
    return Need(kind, name) if kind in KINDS and name and "{{" not in name and "{%" not in name else None


def _mend(text: str) -> str:
    if "{{" in text or "{%" in text:
        return "it has no templates; write the name itself"
    kind, colon, _ = text.partition(":")
    if not colon and kind not in KINDS:
        return f"say what kind of thing it is: device:{text}, model:{text} or engine:{text}"
    return f"{kind}: is without a name" if kind in KINDS else "write model:NAME, device:NAME, engine:NAME or any"
