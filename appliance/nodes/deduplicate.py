"""Let each thing through once.

`key` tells what is the same (the whole payload if left out). Remembers durably for `within`, at most `limit`
things; repeats leave by port `repeat`. With `mode: change` only the last one is remembered per `group`, so a
value goes through whenever it differs from the one before.

    {"key": "{{ payload.id }}", "within": "1d"}
    {"mode": "change", "key": "{{ payload.open }}", "group": "{{ event.topic }}"}
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Node, Out, seconds


class DeduplicateConfig(Config, frozen=True):
    key: Annotated[Any, Meta(description="What tells things apart; the payload if left out")] = None
    mode: Annotated[Literal["seen", "change"], Meta(description="Ever seen, or different from the last")] = "seen"
    within: Annotated[Duration, Meta(description="How long a thing is remembered (`seen`)")] = 86400.0
    limit: Annotated[int, Meta(ge=1, le=5000, description="How many things are remembered (`seen`)")] = 1000
    group: Annotated[str, Meta(description="Remembers separately, for example `{{ event.topic }}`")] = ""


class Deduplicate(Node[DeduplicateConfig]):
    Config = DeduplicateConfig
    title = "Deduplicate"
    category = "data"
    icon = "filter"
    ports = ("out", "repeat")
    inline = True

    def run(self, ctx: Context, config: DeduplicateConfig, payload: Any) -> Any:
        mark = _mark(payload if config.key is None else config.key)
        slot = f"deduplicate:{ctx.node}:{config.group}"
        if config.mode == "change":
            if ctx.state.get(slot) == mark:
                return Out(payload, "repeat")
            ctx.state.set(slot, mark)
            return payload
        oldest = ctx.now() - seconds(config.within)
        seen = {name: moment for name, moment in ctx.state.get(slot, {}).items() if moment > oldest}
        if mark in seen:
            return Out(payload, "repeat")
        seen[mark] = ctx.now()
        kept = sorted(seen.items(), key=lambda entry: entry[1])[-config.limit :]
        ctx.state.set(slot, dict(kept))
        return payload


def _mark(value: Any) -> str:
    """A short fingerprint, equal for equal JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()
