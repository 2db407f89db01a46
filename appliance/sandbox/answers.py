"""What comes back from a child, as a result or as an error that a person can act on."""

from __future__ import annotations

import re
import signal
from typing import Any

import msgspec

from appliance.contracts import ConfigError, Done, ExpressionError, FlowError, Limits, NodeError, TimedOut
from appliance.sandbox.confine import LARGEST_FILE
from appliance.sandbox.languages import Language
from appliance.sandbox.seats import Outcome, text_of


class _Reply(msgspec.Struct):
    """What a runner says of its script."""

    ok: bool
    output: Any = None
    error: str = ""
    syntax: bool = False


class _Returned(msgspec.Struct):
    """What the child says of a call."""

    ok: bool
    value: Any = None
    kind: str = ""
    message: str = ""
    retryable: bool | None = None
    detail: Any = None


def of_script(language: Language, outcome: Outcome, limits: Limits) -> Done:
    """The script's output. Raises ``NodeError`` with stdout, stderr and exit code in ``detail``."""
    if language.by_stdio:
        if outcome.code != 0:
            raise _ended(outcome, limits)
        return _done(outcome, _json_or_text(outcome.stdout))
    if not outcome.reply:
        if outcome.code != 0:
            raise _ended(outcome, limits)
        return _done(outcome, None)  # it ended itself (exit 0)
    try:
        reply = msgspec.json.decode(outcome.reply, type=_Reply)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NodeError("the script's result is not JSON", retryable=False, detail=outcome.detail()) from None
    if not reply.ok:
        raise NodeError(reply.error, retryable=False if reply.syntax else None, detail=outcome.detail())
    return _done(outcome, reply.output)


def of_command(outcome: Outcome, limits: Limits) -> Done:
    """How a program ended, whatever its exit code. Raises ``NodeError`` if a limit ended it."""
    if outcome.code in _LIMITED:
        raise _ended(outcome, limits)
    return _done(outcome, None)


def of_call(outcome: Outcome, limits: Limits) -> Any:
    """What the function returned. Raises what it raised, as one of contracts' errors."""
    try:
        returned = msgspec.json.decode(outcome.reply, type=_Returned)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _ended(outcome, limits) from None
    if returned.ok:
        return returned.value
    raise _error(returned)


#: Errors that a node's function may raise as such; any other becomes a ``NodeError``.
_KINDS: dict[str, type[FlowError]] = {
    kind.__name__: kind for kind in (NodeError, ConfigError, ExpressionError, TimedOut)
}


def _error(returned: _Returned) -> FlowError:
    kind = _KINDS.get(returned.kind, NodeError)
    return kind(returned.message, retryable=returned.retryable, detail=returned.detail)


def _done(outcome: Outcome, output: Any) -> Done:
    return Done(outcome.code or 0, text_of(outcome.stdout), text_of(outcome.stderr), output)


def _json_or_text(stdout: bytes) -> Any:
    """JSON if it is JSON, None if there is nothing, else the text without its last line end."""
    if not stdout.strip():
        return None
    try:
        return msgspec.json.decode(stdout)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text_of(stdout).removesuffix("\n")


def _last_line(stderr: bytes) -> str:
    """Where the error is, as a rule; Bash quotes the faulty line behind it."""
    lines = [line for line in text_of(stderr).splitlines() if line.strip() and not _QUOTE.match(line)]
    return lines[-1].strip() if lines else ""


_QUOTE = re.compile(r"script: -c: line \d+: `")
_LIMITED = {128 + signal.SIGXCPU, 128 + signal.SIGXFSZ}


def _ended(outcome: Outcome, limits: Limits) -> NodeError:
    """Why a child ended without an answer."""
    last = _last_line(outcome.stderr)
    if outcome.code == 128 + signal.SIGXCPU:
        text = f"it used more than {limits.cpu:g} s of CPU time"
    elif outcome.code == 128 + signal.SIGXFSZ:
        text = f"it wrote a file larger than {LARGEST_FILE >> 20} MiB"
    elif outcome.code == 128 + signal.SIGKILL:
        text = "it was killed; perhaps the machine ran out of memory, or it ignored the end of its CPU time"
    else:
        text = f"it ended with exit code {outcome.code}" + (f": {last}" if last else "")
    return NodeError(text, detail=outcome.detail())
