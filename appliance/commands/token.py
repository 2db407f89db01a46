"""``flowork token``: access for machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.security.tokens import Tokens
    from appliance.store.people import TokenRow

command = noun("token", "Engine tokens: what machines show to the API (`Authorization: Bearer flw_…`).", default="list")


@leaf(
    "flowork token create 'door sensor' --scope events:write",
    "flowork token create grafana --scope metrics:read --expires 365d",
    of=command,
)
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="What it may do; may be repeated.")
@click.option("--expires", type=given.Length(), help="How long it is valid, such as 90d. [default: for ever]")
@given.workspace_option
def create(session: Session, name: str, scopes: tuple[str, ...], expires: float | None, workspace: str) -> None:
    """Make a token. It is shown once; only its hash is kept."""
    text, row = _tokens(session).create(session.identity, name, scopes, workspace=workspace, lifetime=expires)
    session.audit("token.create", row.id, {"name": row.name, "scopes": list(row.scopes)}, workspace=workspace)
    if session.as_json:
        out.emit(
            {"id": row.id, "name": row.name, "secret": text.reveal(), "scopes": row.scopes, "expires": row.expires}
        )
        return
    out.fields([("token", text.reveal()), ("id", row.id), ("ends", out.moment(row.expires) or "never")])
    session.note("it is not shown again")


@leaf("flowork token list", "flowork token list --json", of=command, name="list")
def list_(session: Session) -> None:
    """List the tokens of all workspaces, newest first."""
    rows = session.store.people.tokens.list()
    if session.as_json:
        names = ("id", "name", "address", "workspace", "scopes", "created", "expires", "last_used", "revoked")
        out.emit({"items": [{name: getattr(row, name) for name in names} for row in rows]})
    elif not rows:
        out.say("no tokens; make one with `flowork token create NAME --scope …`")
    else:
        head = ("id", "name", "workspace", "scopes", "state", "last used")
        now = time.time()
        out.table(
            head,
            [
                (
                    r.id,
                    out.one_line(r.name, 30),
                    r.workspace,
                    ",".join(r.scopes),
                    _state(r, now),
                    out.moment(r.last_used),
                )
                for r in rows
            ],
        )


@leaf("flowork token revoke 3v9k2m4q8r1tz", of=command)
@click.argument("token_id", metavar="ID")
def revoke(session: Session, token_id: str) -> None:
    """End a token now."""
    from appliance.store.errors import NotFound

    row = session.store.people.tokens.get(token_id)
    if row is None:
        raise NotFound(f"there is no token {token_id!r}; `flowork token list` shows their ids")
    ended = _tokens(session).revoke(session.identity, token_id)
    if ended:
        session.audit("token.revoke", token_id, {"name": row.name}, workspace=row.workspace)
    session.done({"revoked": token_id}, f"revoked {row.name}" if ended else f"{row.name} was revoked before")


def _tokens(session: Session) -> Tokens:
    from appliance.security.tokens import Tokens

    return Tokens(session.store.people.tokens)


def _state(row: TokenRow, now: float) -> str:
    if row.revoked is not None:
        return "revoked"
    if row.expires is not None and row.expires <= now:
        return "expired"
    return "valid" if row.expires is None else f"until {out.moment(row.expires)}"
