"""Steps of a run, one at a time, and the large values that are kept beside them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from appliance.contracts import NodeError
from appliance.engine import trace
from appliance.gateway import answers
from appliance.gateway.routing import Call, Nothing, Noun, Raw
from appliance.gateway.run_teller import VALUE_TYPE, references
from appliance.gateway.run_views import StepView
from appliance.store.errors import NotFound
from appliance.store.history import RunDetail, RunHead

noun = Noun("steps", "A step is one execution of one node in a run.")

NodeId = Annotated[str, Meta(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", description="A node's id")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the content, `$blob` of the reference")]
#: What a browser may show; anything else is bytes to it.
_HARMLESS = {"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain", "text/csv", "application/json"}


@noun.get("/runs/{run}/steps/{node}", permission="runs:read", etag=True)
def show(call: Call[Nothing, Nothing], run: RunHead, node: NodeId) -> StepView:
    """One step with everything that is known of it."""
    return call.gateway.teller.step(run.id, node)


@noun.get("/runs/{run}/blobs/{digest}", permission="runs:read", media="application/octet-stream")
def blob(call: Call[Nothing, Nothing], run: RunHead, digest: Digest) -> Raw:
    """The content of a blob that this run uses. A value that was put aside comes as JSON."""
    reference = next(
        (found for found in _all_references(call.gateway.teller.load(run.id)) if found["$blob"] == digest), None
    )
    if reference is None:
        raise NotFound("this run uses no such blob")
    try:
        data = call.gateway.blobs.get(reference)
    except NodeError as exc:
        raise NotFound(exc.message) from None
    kind = str(reference.get("type", ""))
    if kind == VALUE_TYPE:
        data, kind = _as_json(data), "application/json"
    name = f'attachment; filename="{digest[:16]}"'
    media = kind if kind in _HARMLESS else "application/octet-stream"
    return Raw(data, media, {"Content-Disposition": name, "Cache-Control": "private, max-age=31536000, immutable"})


def _as_json(data: bytes) -> bytes:
    try:
        return answers.encode(answers.plain(trace.unpack(data)))
    except msgspec.DecodeError as exc:
        raise NotFound(f"the blob is damaged: {exc}") from None


def _all_references(detail: RunDetail) -> Any:
    yield from references(detail.event)
    for record in detail.records:
        yield from references([record.value, record.extra])
