"""Restoring this engine: a backup that is sent here in parts, or one that is kept, takes the place of the engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from appliance.backups import NAME, local_copy, place_of
from appliance.gateway.common import Body
from appliance.gateway.restores import RestoreView
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.seal import Keys

noun = Noun(
    "restore",
    "A backup takes the place of this engine: it is unpacked and checked beside it, then the engine starts anew. What "
    "was here is kept in the folder `replaced`. From then on the people, keys and tokens of the backup count.",
)


class Part(Body, frozen=True):
    """A part of a backup of ``size`` bytes, in base64; parts follow each other, and the one at 0 begins anew."""

    offset: Annotated[int, Meta(ge=0)]
    size: Annotated[int, Meta(gt=0)]
    data: bytes


class NewRestore(Body, frozen=True):
    """Which backup, and what opens it."""

    name: Annotated[str, Meta(pattern=f"^$|{NAME}", description="One that is kept; empty: the one that was sent")] = ""
    key: Annotated[str, Meta(max_length=10_000, description="The private key, where it is encrypted to one")] = ""
    passphrase: Annotated[str, Meta(max_length=1000)] = ""
    as_another: Annotated[
        bool,
        Meta(description="Give it an identity of its own, and safe mode, so that it may run beside the first"),
    ] = False


@noun.get("/restore", permission="backups:read")
def show(call: Call[Nothing, Nothing]) -> RestoreView:
    """How a restore goes."""
    return call.gateway.restores.view()


@noun.put("/restore/upload", permission="backups:write", errors=(409,), unaudited="only the restore itself counts")
def send(call: Call[Nothing, Part]) -> RestoreView:
    """Send a part of a backup. After a cut one goes on behind what is there: `received`."""
    return call.gateway.restores.receive(call.body.offset, call.body.size, call.body.data)


@noun.delete("/restore/upload", permission="backups:write", errors=(409,), unaudited="only the restore itself counts")
def forget(call: Call[Nothing, Nothing]) -> None:
    """Delete what was sent."""
    call.gateway.restores.forget()


@noun.post("/restore", permission="backups:write", status=202, errors=(409,), audit="backup.restore")
def begin(call: Call[Nothing, NewRestore]) -> RestoreView:
    """Begin; how it goes tells `GET /restore`. When it is done, the engine ends and starts as the restored one."""
    gateway, asked = call.gateway, call.body
    restores = gateway.restores
    call.note(asked.name or "sent", as_another=asked.as_another)
    keys = Keys((asked.key,) if asked.key.strip() else (), asked.passphrase)
    opened: Callable[[], AbstractContextManager[Path]]
    if asked.name:
        place = place_of(gateway.settings.backup_to, gateway.data)
        opened = partial(local_copy, place, asked.name, gateway.data / "backups")
    else:
        sent = restores.sent()
        opened = lambda: nullcontext(sent)  # noqa: E731  # partial() loses its type
    restores.begin(opened, keys, as_another=asked.as_another)
    return restores.view()
