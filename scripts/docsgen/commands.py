"""The page of the command line: every command with its options and examples, and the exit codes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from appliance.cli import main
from appliance.commands._base import EXIT_CODES, Leaf, Noun

_ABOUT = """\
`flowork` works on one data folder, on the box itself, as its owner; it needs no login, for who can read the folder has
its keys anyhow. Most commands work whether the engine runs or not: they read the files, and what changes a flow tells
the running engine of it. Those that need the engine say so.

Every command takes:

- `--data FOLDER`: the data folder. If it is left out: `$FLOWORK_DATA`, or `FloworkData` in the checkout.
- `--json`: the answer is one JSON document on standard output, with the field names and units of the API;
  an error is `{"error": {"id", "message", "detail"}}`, its [id](errors.md) explained. With `--follow` it is one
  document a line, as things happen.
- `--debug`: where an error comes from, and what the parts log.

Errors are one line on standard error. Colours are left out where the output is no terminal, and with `NO_COLOR`.

Where a command takes JSON it takes `@file` as well, and `-` for standard input. Moments are `2h` (ago), `2026-11-21`
or `2026-11-21T07:00`; durations `90s`, `2m`, `1h30m`, `3d`.

## Trying a flow without an engine

`flowork run file.json --follow` runs a flow file with nothing else running, shows each step as it happens, and its
exit code tells how the run ended. It happens in a scratch folder that is gone afterwards, so nothing of it is in the
history. If there is an engine in the data folder, the run sees a copy of its flows (for `subflow`), variables,
settings and secrets, and its `files/` and `packages/`; changes of the copy are lost. What the steps do to the world,
they do. The file's triggers are not attached: it is one run, with the payload of `--input`. Ctrl-C cancels it.

`flowork run FLOW` starts a flow in the running engine. If none runs it is run in this process and kept in the history
like any other; no trigger is attached meanwhile, and runs that were under way wait for the next `flowork up`.
"""
_MADE = "<!-- Made by scripts/make-docs from the code: change the code and run it again. -->"
_SHARED = {"data", "as_json", "debug"}


def page() -> str:
    """docs/cli.md."""
    parts = [
        "# The command line",
        "<!-- Made by scripts/make-docs from the code: change the code and run it again. -->",
    ]
    parts += [_ABOUT.strip(), "## Exit codes", _exit_codes(), "## Commands"]
    for path, command in leaves():
        parts += _command(path, command)
    return "\n\n".join(parts)


def leaves() -> Iterator[tuple[str, Leaf]]:
    """Every command that does something, with the words that call it (without ``flowork``)."""
    ctx = click.Context(main)
    for name in main.list_commands(ctx):
        command = main.get_command(ctx, name)
        if isinstance(command, Noun):
            for verb in command.list_commands(ctx):
                leaf = command.get_command(ctx, verb)
                assert isinstance(leaf, Leaf), f"{name} {verb}"
                yield f"{name} {verb}", leaf
        else:
            assert isinstance(command, Leaf), name
            yield name, command


def _exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(EXIT_CODES.items())]
    return "\n".join(["| code | it means |", "|---|---|", *rows])


def _command(path: str, command: Leaf) -> Iterator[str]:
    ctx = click.Context(command, info_name=f"flowork {path}")
    usage = " ".join(piece for piece in command.collect_usage_pieces(ctx) if piece != "[OPTIONS]")
    yield f"### flowork {path}"
    yield f"`flowork {path}{' ' + usage if usage else ''}`"
    yield _prose(command.help or "")
    options = [row for option in command.params if (row := _option(ctx, option))]
    if options:
        yield "\n".join(options)
    yield "\n".join(["```sh", *command.examples, "```"])


def _prose(text: str) -> str:
    """Paragraphs as they are written in the docstring."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _option(ctx: click.Context, option: click.Parameter) -> str:
    if not isinstance(option, click.Option) or option.name in _SHARED:
        return ""
    record = option.get_help_record(ctx)
    assert record is not None, option.name
    assert option.help, f"{option.name} has no help"
    return f"- `{record[0]}`: {record[1]}"
