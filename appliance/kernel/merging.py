"""What the kernels of a cluster say of themselves, as if one had said it."""

from __future__ import annotations

from collections import Counter
from typing import Any

_SUMS = ("runs", "waiting", "queue", "queue_bound", "timers", "commits", "lost_history")
_LISTS = ("damaged", "triggers", "mqtt")


def merged_status(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One status: numbers added up, lists put together, the rest as the first kernel has it.

    ``kernels`` tells of each: its number, its machine, its runs, and the seconds that its lease still holds.
    """
    first = answers[0]
    ended: Counter[str] = Counter()
    for answer in answers:
        ended.update(answer["ended"])
    merged = {**first, "ended": dict(ended)}
    merged |= {name: sum(answer[name] for answer in answers) for name in _SUMS}
    merged |= {name: [item for answer in answers for item in answer[name]] for name in _LISTS}
    merged["lag"] = max(answer["lag"] for answer in answers)
    merged["degraded"] = next((answer["degraded"] for answer in answers if answer["degraded"]), "")
    # Only the kernel with the links to other engines knows how they stand.
    merged["peers"] = next((answer["peers"] for answer in answers if answer["peers"]), {})
    merged["kernels"] = [
        {
            "writer": answer["writer"],
            "machine": answer["machine"],
            "runs": answer["runs"],
            "flows": answer.get("homes", 0),
            "lease": round(answer["lease"], 1),
            "uptime": answer["uptime"],
        }
        for answer in answers
    ]
    for name in ("writer", "machine", "lease", "homes"):
        merged.pop(name, None)
    return merged


def merged_placements(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What is away at other engines, and waits for them: each kernel tells of its own steps, one of the events."""
    return {name: [item for answer in answers for item in answer[name]] for name in ("steps", "outbox")}
