"""``flowork secret``: values that flows use and nobody reads back."""

from __future__ import annotations

import sys

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session
from appliance.wording import counted

command = noun("secret", "Secrets: `{{ secrets.NAME }}` in flows; they are never shown again.", default="list")


@leaf("flowork secret list", "flowork secret list --json", of=command, name="list")
@given.workspace_option
def list_(session: Session, workspace: str) -> None:
    """List the names of the secrets. There is no way to read their values."""
    names = session.secrets.names(workspace)
    if session.as_json:
        out.emit({"items": names})
    elif not names:
        out.say("no secrets; add one with `flowork secret set NAME`")
    for name in [] if session.as_json else names:
        out.say(name)


@leaf("flowork secret set smtp_password", "flowork secret set api_key < key.txt", of=command, name="set")
@click.argument("name")
@given.workspace_option
def set_(session: Session, name: str, workspace: str) -> None:
    """Keep a secret. Its value is asked for, or read from standard input; never put it on a command line."""
    from appliance.security.secret import Secret

    session.need_engine()
    if sys.stdin.isatty():
        value = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    session.secrets.put(workspace, name, Secret(value))
    session.audit("secret.set", name, workspace=workspace)
    session.done({"name": name, "kernel": session.reload()}, f"kept {name}")


@leaf("flowork secret delete smtp_password", of=command)
@click.argument("name")
@given.workspace_option
@given.yes_option
def delete(session: Session, name: str, workspace: str, yes: bool) -> None:
    """Forget a secret. Flows that use it will fail."""
    from appliance.store.errors import NotFound

    if name not in session.secrets.names(workspace):
        raise NotFound(f"there is no secret {name!r} in workspace {workspace!r}")
    given.confirmed(yes, f"Forget the secret {name!r}?")
    session.secrets.delete(workspace, name)
    session.audit("secret.delete", name, workspace=workspace)
    session.done({"deleted": name, "kernel": session.reload()}, f"forgot {name}")


@leaf("flowork secret rotate", of=command)
def rotate(session: Session) -> int:
    """Seal every secret again under a new master key, and forget the old one. May be interrupted at any moment."""
    session.need_engine()
    done, problems = session.secrets.rotate()
    session.audit("secret.rotate", detail={"sealed": done, "problems": len(problems)})
    session.done(
        {"sealed": done, "problems": list(problems)}, f"{counted(done, 'secret was', 'secrets were')} sealed again"
    )
    for problem in problems:
        session.note(problem)
    return 1 if problems else 0
