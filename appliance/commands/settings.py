"""``flowork settings``: what holds for the whole engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

command = noun("settings", "The engine's settings; docs/settings.md explains each.", default="show")


@leaf("flowork settings show", "flowork settings show keep_days --json", of=command)
@click.argument("name", required=False)
def show(session: Session, name: str | None) -> None:
    """Show the settings: their values, and where these come from."""
    from appliance.store.errors import NotFound

    found = session.store.settings.describe()
    if name is not None:
        found = [setting for setting in found if setting.name == name]
        if not found:
            raise NotFound(f"there is no setting {name!r}; `flowork settings show` lists them all")
    if session.as_json:
        items = [{"name": s.name, "value": s.value, "default": s.default, "source": s.source} for s in found]
        out.emit(items[0] if name is not None else {"items": items})
        return
    out.table(("setting", "value", "from"), [(s.name, out.short(s.value), s.source) for s in found])


@leaf("flowork settings set keep_days=14", "flowork settings set file_roots=/media/usb,/srv", of=command, name="set")
@click.argument("pairs", metavar="NAME=VALUE…", nargs=-1, required=True)
def set_(session: Session, pairs: tuple[str, ...]) -> None:
    """Change settings, all or none. Values are JSON or text; lists may be written with commas."""
    values = dict(_pair(pair) for pair in pairs)
    session.store.settings.set(values)
    for name, value in values.items():
        session.audit("settings.set", name, {"value": value})
    overruled = [s.name for s in session.store.settings.describe() if s.name in values and s.source == "environment"]
    session.done({"set": values, "overruled": overruled}, f"set {', '.join(values)}{_from_when(session, values)}")
    for name in overruled:
        session.note(f"the environment variable FLOWORK_{name.upper()} overrules {name}")


@leaf("flowork settings reset keep_days", of=command)
@click.argument("name")
def reset(session: Session, name: str) -> None:
    """Go back to a setting's default."""
    session.store.settings.reset(name)
    session.audit("settings.reset", name)
    session.done({"reset": name}, f"{name} has its default again{_from_when(session, [name])}")


def _from_when(session: Session, names: Iterable[str]) -> str:
    """Have a running kernel take the settings up; what there is to say of those that it cannot."""
    from appliance.store.settings import held_at_start

    later = held_at_start(names)
    return f"; from the engine's next start on: {', '.join(later)}" if session.reload() and later else ""


def _pair(text: str) -> tuple[str, Any]:
    """A setting's name and value, converted. Raises ``ConfigError``, ``NotFound``."""
    from appliance.store.settings_store import check, from_text

    name, sign, value = text.partition("=")
    if not sign:
        raise click.UsageError(f"{text!r}: write NAME=VALUE, such as keep_days=14.")
    return name, check(name, from_text(name, value), strict=False)
