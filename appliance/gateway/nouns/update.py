"""Updates: what the updater is at, what there is to be had, sending a release here, and handing it over."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.contracts import FlowError, NodeError
from appliance.gateway.common import Body
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.update import request
from appliance.update.automatic import Automatic, looked
from appliance.update.peers import opener
from appliance.update.request import SentRelease, UpdateView
from appliance.update.sources import PEER, Available, Opener, look

noun = Noun(
    "update",
    "Bringing a signed release in. It is verified before anything of it is used, tried, and taken back by itself if "
    "all is not well for five minutes after it.",
)


class WantedRelease(Body, frozen=True):
    """A release: a path on this machine (a file, or a folder such as a stick), an http(s) address, or ``peer:NAME``."""

    source: Annotated[
        str,
        Meta(
            max_length=2_000,
            pattern=r"^$|^(/|https?://|peer:.)",
            description="Empty: the one that was sent; of a look: what the setting `update_from` says",
        ),
    ] = ""


class ReleasePart(Body, frozen=True):
    """A part of a release of ``size`` bytes, in base64; parts follow each other, and the one at 0 begins anew."""

    offset: Annotated[int, Meta(ge=0)]
    size: Annotated[int, Meta(gt=0)]
    data: bytes


class AtPeers(Struct, frozen=True):
    """The releases of paired engines that are on the line."""

    items: list[Available]


@noun.get("/update", permission="settings:read")
def show(call: Call[Nothing, Nothing]) -> UpdateView:
    """What the updater is at, how the last update ended, which releases lie on sticks, and whether one can go back."""
    return _view(call)


@noun.get("/update/peers", permission="settings:read")
def at_peers(call: Call[Nothing, Nothing]) -> AtPeers:
    """The releases that paired engines give: those that they run, each judged by its signature here."""
    items = []
    for offer in call.gateway.call("release_offers"):
        source = f"{PEER}{offer['peer']}"
        try:
            items.append(look(source, _of_peer(call)))
        except FlowError as exc:
            items.append(Available(source=source, why_not=exc.message))
    return AtPeers(items)


@noun.post("/update", permission="settings:write", status=202, errors=(409, 422, 502, 503), audit="update.request")
def bring(call: Call[Nothing, WantedRelease]) -> UpdateView:
    """Have a release looked at and brought in. Answered once it is here; it restarts everything some minutes later."""
    source = call.body.source
    call.note(source or "sent")
    if source:
        request.hand_over(call.gateway.data, source, of_peer=_of_peer(call))
    else:
        call.gateway.release_upload.bring()
    return _view(call)


@noun.put("/update/upload", permission="settings:write", errors=(409, 422), unaudited="only the update itself counts")
def send(call: Call[Nothing, ReleasePart]) -> SentRelease:
    """Send a part of a release file. What is not signed by a trusted key, or not for this machine, is refused soon."""
    return call.gateway.release_upload.receive(call.body.offset, call.body.size, call.body.data)


@noun.delete("/update/upload", permission="settings:write", unaudited="only the update itself counts")
def forget(call: Call[Nothing, Nothing]) -> None:
    """Delete what was sent."""
    call.gateway.release_upload.forget()


@noun.post("/update/look", permission="settings:write", errors=(409, 422, 502, 503), unaudited="it changes nothing")
def look_there(call: Call[Nothing, WantedRelease]) -> Available:
    """What a source has, without fetching it: the newest release that is for this machine."""
    if call.body.source:
        return look(call.body.source, _of_peer(call))
    source, data = call.gateway.settings.update_from, call.gateway.data
    if not source:
        raise NodeError("no source is set: see the setting update_from")
    Automatic(data, lambda where: look(where, _of_peer(call)), lambda where: None).now("tell", source)
    seen = looked(data)
    if seen.found is None or seen.error:
        raise NodeError(seen.error)
    return seen.found


@noun.post("/update/back", permission="settings:write", status=202, errors=(422,), audit="update.back")
def back(call: Call[Nothing, Nothing]) -> UpdateView:
    """Return to the version before the last update; everything is started anew. Nothing is lost by it."""
    request.go_back(call.gateway.data)
    return _view(call)


def _view(call: Call[Any, Any]) -> UpdateView:
    gateway = call.gateway
    source, sent = gateway.settings.update_from, gateway.release_upload.view()
    return request.view(gateway.data, source=source, sent=sent, now=gateway.now())


def _of_peer(call: Call[Any, Any]) -> Opener:
    return opener(call.gateway.call)
