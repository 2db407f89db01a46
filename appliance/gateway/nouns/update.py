"""Updates: what the updater is at, and handing it a release."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from appliance.gateway.common import Body
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.update import request
from appliance.update.peers import opener
from appliance.update.request import UpdateView
from appliance.update.sources import Available, look

noun = Noun(
    "update",
    "Bringing a signed release in. It is verified before anything of it is used, tried, and taken back by itself if "
    "all is not well for five minutes after it.",
)


class WantedRelease(Body, frozen=True):
    """A release: a path on this machine (a file, or a folder such as a stick), an http(s) address, or ``peer:NAME``."""

    source: Annotated[str, Meta(min_length=1, max_length=2_000, pattern=r"^(/|https?://|peer:.)")]


@noun.get("/update", permission="settings:read")
def show(call: Call[Nothing, Nothing]) -> UpdateView:
    """What the updater is at, how the last update ended, which releases lie on sticks, and whether one can go back."""
    return request.view(call.gateway.data)


@noun.post("/update", permission="settings:write", status=202, errors=(422, 502), audit="update.request")
def bring(call: Call[Nothing, WantedRelease]) -> UpdateView:
    """Have a release looked at and brought in. Answered once it is here; it restarts everything some minutes later."""
    call.note(call.body.source)
    request.hand_over(call.gateway.data, call.body.source, of_peer=opener(call.gateway.call))
    return request.view(call.gateway.data)


@noun.post("/update/look", permission="settings:write", errors=(422, 502), unaudited="it changes nothing")
def look_there(call: Call[Nothing, WantedRelease]) -> Available:
    """What a source has, without fetching it: the newest release that is for this machine."""
    return look(call.body.source, opener(call.gateway.call))


@noun.post("/update/back", permission="settings:write", status=202, errors=(422,), audit="update.back")
def back(call: Call[Nothing, Nothing]) -> UpdateView:
    """Return to the version before the last update; everything is started anew. Nothing is lost by it."""
    request.go_back(call.gateway.data)
    return request.view(call.gateway.data)
