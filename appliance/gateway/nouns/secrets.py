"""Secrets: what flows use as ``secrets.<name>`` and nobody can read back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from appliance.gateway.common import Body, InWorkspace, Name, one_workspace
from appliance.gateway.mentions import mentions_for
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.secret import Secret
from appliance.security.vault import MAX_LENGTH
from appliance.store.errors import NotFound
from appliance.store.records import Page

noun = Noun("secrets", "Values that flows use as `secrets.<name>`. They can be set and used, and never read.")


class ListSecrets(InWorkspace, frozen=True):
    """Which of them, and with what."""

    uses: Annotated[bool, Meta(description="With the flows that mention each")] = False


class SecretView(Struct, frozen=True):
    """All that can be known of a secret; ``used_by`` is as with variables."""

    name: str
    updated: float
    used_by: list[str] | None = None


class NewSecret(Body, frozen=True):
    """What to set it to."""

    value: Annotated[str, Meta(min_length=4, max_length=MAX_LENGTH, description="Text; never shown again")]


@noun.get("/secrets", permission="secrets:list")
def list_secrets(call: Call[ListSecrets, Nothing]) -> Page[SecretView]:
    """The names of a workspace's secrets."""
    workspace = one_workspace(call.workspace)
    rows = [row for row in call.gateway.store.values.secrets.all() if row.workspace == workspace]
    uses = mentions_for(call, workspace, "secrets") if call.query.uses else None
    return Page([SecretView(row.name, row.updated, None if uses is None else uses.get(row.name, [])) for row in rows])


@noun.put("/secrets/{name}", permission="secrets:write", errors=(404,), audit="secret.set")
def save(call: Call[InWorkspace, NewSecret], name: Name) -> None:
    """Set a secret. It is sealed at once, and kept out of logs, snapshots and answers from then on."""
    call.note(name)
    call.gateway.secrets.put(one_workspace(call.workspace), name, Secret(call.body.value))
    call.after.append(call.gateway.reload)


@noun.delete("/secrets/{name}", permission="secrets:write", errors=(404,), audit="secret.delete")
def delete(call: Call[InWorkspace, Nothing], name: Name) -> None:
    """Forget a secret."""
    call.note(name)
    if not call.gateway.secrets.delete(one_workspace(call.workspace), name):
        raise NotFound(f"there is no secret {name!r}")
    call.after.append(call.gateway.reload)
