"""What every command has: ``--data``, ``--json``, ``--debug``, examples in its help, errors in one line.

A command is a function that takes a :class:`Session` first, made a click command by :func:`leaf`; a noun with
verbs (``flowork flow list``) is a :class:`Noun`. What a function returns is the exit code, None for 0.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from appliance.commands import data_option
from appliance.commands._session import Session
from appliance.contracts import Busy, FlowError

F = TypeVar("F", bound=Callable[..., Any])

#: Exit codes with their meaning: the table in docs/cli.md.
EXIT_CODES = {
    0: "it was done; `run`, `replay`: the run succeeded; `doctor`: all is well",
    1: "it could not be done: the line on standard error says why; `doctor`: warnings",
    2: "the command was written wrongly (unknown option, missing argument); `doctor`: faults",
    3: "what was named does not exist (flow, version, run, step, trigger …)",
    4: "somebody was quicker, or it cannot be done in this state (conflict, folder in use)",
    5: "the kernel is needed and does not answer; start it with `flowork up`",
    10: "the run failed",
    11: "the event went to the dead letters: no run could be made of it",
    12: "the run was cancelled",
    13: "the run was skipped (`mode: single`, and another run was under way)",
    14: "the run is still under way (it waits, or `--timeout` was reached)",
    70: "a fault in Flowork itself; `--debug` shows where",
    75: "too busy at this moment; try again",
    130: "ended by Ctrl-C",
}

_BY_ID = {
    "not-found": 3,
    "conflict": 4,
    "already-exists": 4,
    "folder-in-use": 4,
    "store-busy": 75,
    "busy": 75,
    "kernel-away": 5,
}


class Leaf(click.Command):
    """A command at the end of the line, with examples."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, under the options."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write_text(example)
        super().format_epilog(ctx, formatter)


class Noun(click.Group):
    """A noun with verbs; alone it does ``default`` (mostly ``list``), if it has one."""

    def __init__(self, *arguments: Any, default: str = "", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default verb where none was given."""
        bare = not args or (args[0].startswith("-") and args[0] not in {"-h", "--help"})
        if self.default and bare:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def noun(name: str, help_text: str, default: str = "") -> Noun:
    """An empty group for ``@leaf(…, of=…)``."""
    return Noun(name, help=help_text, default=default, context_settings={"help_option_names": ["-h", "--help"]})


_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, errors too.")
_debug = click.option("--debug", is_flag=True, help="Show where an error comes from, and what the parts log.")


def leaf(*examples: str, of: click.Group | None = None, name: str | None = None) -> Callable[[F], Leaf]:
    """Make a function a command, of a noun if one is given; its docstring is the help."""

    def decorate(function: F) -> Leaf:
        @functools.wraps(function)
        def callback(data: Path | None, as_json: bool, debug: bool, **options: Any) -> None:
            with Session(data, as_json=as_json, debug=debug) as session:
                code = _guarded(session, functools.partial(function, session, **options))
            if code:
                raise click.exceptions.Exit(code)

        made = click.command(
            name or function.__name__.removesuffix("_").replace("_", "-"),
            cls=Leaf,
            examples=examples,
            context_settings={"help_option_names": ["-h", "--help"]},
        )(data_option(_json(_debug(callback))))
        if of is not None:
            of.add_command(made)
        return made

    return decorate


def _guarded(session: Session, work: Callable[[], int | None]) -> int:
    """Do the work; what is meant for people becomes one line and an exit code."""
    try:
        return work() or 0
    except click.ClickException:
        raise
    except KeyboardInterrupt:
        session.fail("cancelled", "interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`). Standard output is closed, or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FlowError as exc:
        _trace(session)
        error_id = str(getattr(exc, "error_id", exc.id))
        extra = {"retry_after": exc.retry_after} if isinstance(exc, Busy) else {}
        session.fail(error_id, exc.message, exc.detail, **extra)
        return _BY_ID.get(error_id, 1)
    except (OSError, sqlite3.Error) as exc:
        _trace(session)
        session.fail("error", _system(exc))
        return 1
    except Exception as exc:
        _trace(session)
        session.fail("internal", f"a fault in Flowork: {type(exc).__name__}: {exc} (--debug shows where)")
        return 70


def _trace(session: Session) -> None:
    if session.debug:
        traceback.print_exc(file=sys.stderr)


def _system(exc: OSError | sqlite3.Error) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror.lower()}" if exc.filename else exc.strerror.lower()
    return f"the history cannot be read: {exc}; `flowork doctor` tells more"
