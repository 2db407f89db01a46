"""``flowork var``: values that all flows of a workspace see."""

from __future__ import annotations

from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

command = noun("var", "Variables: `{{ vars.NAME }}` in every flow of a workspace.", default="list")


@leaf("flowork var list", "flowork var list --json", of=command, name="list")
@given.workspace_option
def list_(session: Session, workspace: str) -> None:
    """List the variables with their values."""
    found = session.store.values.variables(workspace)
    if session.as_json:
        out.emit({"items": [{"name": one.name, "value": one.value, "updated": one.updated} for one in found]})
    elif not found:
        out.say("no variables; add one with `flowork var set NAME VALUE`")
    else:
        out.table(("name", "value", "changed"), [(v.name, out.short(v.value), out.moment(v.updated)) for v in found])


@leaf(
    "flowork var set limit 30",
    "flowork var set rooms '[\"hall\"]'",
    "flowork var set pin 0042 --text",
    of=command,
    name="set",
)
@click.argument("name")
@click.argument("value")
@click.option("--text", is_flag=True, help="Take the value as text even if it is JSON.")
@given.workspace_option
def set_(session: Session, name: str, value: str, text: bool, workspace: str) -> None:
    """Set a variable. The value is JSON, or text where it is none."""
    session.store.values.set_variable(workspace, name, value if text else _value(value))
    session.audit("variable.set", name, workspace=workspace)
    session.done({"name": name, "kernel": session.reload()}, f"set {name}")


@leaf("flowork var delete limit", of=command)
@click.argument("name")
@given.workspace_option
def delete(session: Session, name: str, workspace: str) -> None:
    """Delete a variable."""
    session.store.values.delete_variable(workspace, name)
    session.audit("variable.delete", name, workspace=workspace)
    session.done({"deleted": name, "kernel": session.reload()}, f"deleted {name}")


def _value(text: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
