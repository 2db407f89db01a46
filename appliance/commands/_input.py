"""What people give to commands: files with flows, JSON, moments, run ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance.contracts import ConfigError, FlowError

if TYPE_CHECKING:
    _Kind = click.ParamType[Any]
else:  # generic from click 8.4 on only
    _Kind = click.ParamType

_STDIN = "-"


class BadInput(FlowError):
    """A file or an argument cannot be read."""

    id = "bad-request"
    retryable = False


def read_bytes(path: str) -> bytes:
    """The content of a file, or of standard input for ``-``. Raises ``BadInput``."""
    if path == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise BadInput(f"{path}: {(exc.strerror or str(exc)).lower()}") from None


def read_text(path: str) -> str:
    """The text of a file, or of standard input for ``-``. Raises ``BadInput`` for what is none."""
    try:
        return read_bytes(path).removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        raise BadInput(f"{'standard input' if path == _STDIN else path}: not text in UTF-8") from None


def read_json_file(path: str) -> Any:
    """The JSON in a file, or on standard input for ``-``. Raises ``BadInput`` naming line and column."""
    return _parse(read_bytes(path).removeprefix(b"\xef\xbb\xbf"), "standard input" if path == _STDIN else path)


def json_argument(text: str | None, what: str) -> Any:
    """The value of an option that takes JSON, ``@file`` or ``-``; None if it was not given."""
    if text is None:
        return None
    if text == _STDIN or text.startswith("@"):
        return read_json_file(text.removeprefix("@"))
    return _parse(text.encode("utf-8", "surrogateescape"), what)


def _parse(data: bytes, where: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadInput(f"{where}: not JSON: {_place(data) or exc}") from None


def _place(data: bytes) -> str:
    """What the standard library says of it: line and column, which a person can find."""
    try:
        json.loads(data)
    except json.JSONDecodeError as exc:
        return str(exc)
    except (UnicodeDecodeError, RecursionError, ValueError):
        pass
    return ""


def looks_like_a_file(text: str) -> bool:
    """Whether an argument that may be a flow's id or a file is meant as a file."""
    return text == _STDIN or "/" in text or text.endswith(".json") or Path(text).is_file()


class Moment(_Kind):
    """``2h`` (ago), ``2026-11-21``, ``2026-11-21T07:00`` (this machine's zone unless it names another)."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds."""
        import datetime
        import time

        from appliance.contracts import seconds

        if isinstance(value, float):
            return value
        try:
            return datetime.datetime.fromisoformat(value).timestamp()
        except ValueError:
            pass
        try:
            return time.time() - seconds(value)
        except ConfigError:
            self.fail(f"{value!r} is no moment; write 2h (ago), 2026-11-21 or 2026-11-21T07:00", param, ctx)


class Length(_Kind):
    """A duration as in flows: ``90s``, ``2m``, ``1h30m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        from appliance.contracts import seconds

        try:
            return seconds(value)
        except ConfigError as exc:
            self.fail(exc.message, param, ctx)


class RunId(_Kind):
    """The 13 characters of a run's id."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Its number."""
        from appliance.store.runids import from_text

        if isinstance(value, int):
            return value
        try:
            return from_text(value)
        except ValueError as exc:
            self.fail(f"{exc}; `flowork runs` lists them", param, ctx)


def confirmed(yes: bool, question: str) -> None:
    """Ask the person at the terminal; where there is none, ``--yes`` is needed. Raises ``click.Abort``."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes to do it without being asked.")
    click.confirm(click.style(question, bold=True), abort=True, err=True)


yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
workspace_option = click.option("--workspace", default="default", show_default=True, help="The workspace.")
