"""Where flows mention variables and secrets: what would miss one that is deleted.

A mention is found in the text of the newest and the live version, wherever it stands: in a template, an
expression or a script. A name that a flow makes up while it runs (``vars[payload.which]``) is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from appliance.gateway.routing import Call
from appliance.gateway.services import Gateway
from appliance.security.roles import allowed

Space = Literal["vars", "secrets"]
#: In JSON a quote within a text is written \" .
_MENTION = re.compile(r"""\b(vars|secrets)(?:\.([A-Za-z_]\w*)|\[\\?["']([A-Za-z_]\w*)\\?["']\])""", re.ASCII)
_PAGE = 500


def mentions_for(call: Call[Any, Any], workspace: str, space: Space) -> Mapping[str, list[str]] | None:
    """:func:`mentions`, or None for a caller who may not see the workspace's flows."""
    if not allowed(call.identity, "flows:read", workspace):
        return None
    return mentions(call.gateway, workspace, space)


def mentions(gateway: Gateway, workspace: str, space: Space) -> Mapping[str, list[str]]:
    """The ids of the workspace's flows that mention each name of ``vars`` or ``secrets``, in the order of the flows."""
    found: dict[str, list[str]] = {}
    for flow, texts in _texts(gateway, workspace).items():
        for name in sorted({name for text in texts for name in _names(text, space)}):
            found.setdefault(name, []).append(flow)
    return found


def _names(text: str, space: Space) -> Iterable[str]:
    return (match[2] or match[3] for match in _MENTION.finditer(text) if match[1] == space)


def _texts(gateway: Gateway, workspace: str) -> dict[str, list[str]]:
    """The newest and the live version of each flow, as their JSON text."""
    flows = gateway.store.flows
    found: dict[str, list[str]] = {}
    after = ""
    while True:
        page = flows.list(workspace, after=after, limit=_PAGE)
        for flow in page.items:
            found[flow.id] = [flows.numbered(flow.id).text]
        if not (after := page.next):
            break
    for flow, version in flows.live():
        if flow.id in found and version.number != flow.newest:
            found[flow.id].append(version.text)
    return found
