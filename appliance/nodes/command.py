r"""Runs a program of this machine.

`args` is the program and its arguments, each one word whatever it holds; no shell takes part. A shell line can be
given in `shell` instead: it is never a template, so hand values over in `env` (`"$NAME"` in the line) or `stdin`.
The environment is clean: PATH, LANG, HOME and TMPDIR (a folder of its own, removed afterwards), and `env`. `cwd` is a
folder in the engine's `files`. Everything the program started is ended with it. Gives `{code, stdout, stderr}`; an
exit code that is not in `ok_codes` is an error. `parse` turns `stdout` into JSON or a list of lines.

    {"args": ["ping", "-c", "1", "{{ payload.host }}"], "ok_codes": [0, 1], "timeout": "10s"}
    {"shell": "df -h \"$DISK\" | tail -1", "env": {"DISK": "{{ payload.disk }}"}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.contracts import (
    Code,
    Config,
    ConfigError,
    Context,
    Done,
    Duration,
    Effect,
    Limits,
    Node,
    NodeError,
    Problem,
    World,
    seconds,
)


class CommandConfig(Config, frozen=True):
    args: Annotated[list[str], Meta(title="Program and arguments", max_length=4096)] = []
    shell: Annotated[
        Code, Meta(title="Or a shell line", description="For sh; never a template: values come by env.")
    ] = ""
    stdin: Annotated[Any, Meta(title="Standard input", description="Text as it is, anything else as JSON.")] = None
    env: Annotated[dict[str, str], Meta(title="Environment variables")] = {}
    cwd: Annotated[str, Meta(title="Folder", description="In the files folder; a temporary one if empty.")] = ""
    timeout: Annotated[Duration, Meta(title="Timeout", description="After this it is ended.")] = 60.0
    cpu: Annotated[float, Meta(title="CPU seconds per process", description="0: no bound.", ge=0)] = 0.0
    memory_mb: Annotated[int, Meta(title="Memory per process, MiB", description="0: no bound.", ge=0)] = 1024
    output_kb: Annotated[int, Meta(title="Largest output, KiB", ge=1, le=65536)] = 1024
    network: Annotated[bool, Meta(title="Network", description="May reach the network.")] = True
    ok_codes: Annotated[tuple[int, ...], Meta(title="Exit codes that are no error", min_length=1)] = (0,)
    parse: Annotated[Literal["text", "json", "lines"], Meta(title="Read stdout as")] = "text"
    effect: Annotated[Effect, Meta(title="Effect", description="What running it twice would do.")] = Effect.ONCE


class Command(Node[CommandConfig]):
    Config = CommandConfig
    title = "Command"
    category = "code"
    icon = "terminal"
    effect = Effect.ONCE

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        chosen = config.get("effect", Effect.ONCE)
        return Effect(chosen) if chosen in list(Effect) else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        args, shell = config.get("args") or [], config.get("shell")
        if bool(args) == bool(shell):
            yield Problem("args", "give either the program and its arguments in args, or a line in shell")
        program = args[0] if isinstance(args, list) and args else ""
        if _is_plain_name(program) and not world.has_program(program):
            hint = "; a whole line belongs in shell" if " " in program else ""
            yield Problem("args[0]", f"there is no program {program!r} on this machine{hint}")

    async def run(self, ctx: Context, config: CommandConfig, payload: Any) -> Any:
        done = await ctx.sandbox.command(
            _argv(config),
            stdin=_stdin(config.stdin),
            env=config.env,
            cwd=_folder(ctx, config.cwd),
            limits=Limits(
                timeout=_positive(config.timeout),
                cpu=config.cpu,
                memory_mb=config.memory_mb,
                output_kb=config.output_kb,
                network=config.network,
            ),
        )
        if done.code not in config.ok_codes:
            raise _failed(config, done)
        return {"code": done.code, "stdout": _parsed(config, done), "stderr": done.stderr}


def _is_plain_name(program: Any) -> bool:
    """A name to be looked up, neither a template nor a path."""
    return isinstance(program, str) and bool(program) and "{{" not in program and "/" not in program


def _argv(config: CommandConfig) -> list[str]:
    if bool(config.args) == bool(config.shell):
        raise ConfigError("give either the program and its arguments in args, or a line in shell")
    return ["/bin/sh", "-c", config.shell] if config.shell else config.args


def _stdin(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


def _folder(ctx: Context, cwd: str) -> Path | None:
    if not cwd:
        return None
    folder = ctx.files.resolve(cwd, write=True)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {cwd!r} in the files folder")
    return folder


def _positive(timeout: float | str) -> float:
    value = seconds(timeout)
    if value == 0:
        raise ConfigError("timeout must be more than 0 seconds")
    return value


def _failed(config: CommandConfig, done: Done) -> NodeError:
    name = config.args[0] if config.args else "the shell line"
    last = done.stderr.strip().rpartition("\n")[2]
    message = f"{name} ended with exit code {done.code}" + (f": {last}" if last else "")
    return NodeError(message, detail={"exit_code": done.code, "stdout": done.stdout, "stderr": done.stderr})


def _parsed(config: CommandConfig, done: Done) -> Any:
    if config.parse == "lines":
        return done.stdout.splitlines()
    if config.parse == "text":
        return done.stdout
    try:
        return msgspec.json.decode(done.stdout)
    except msgspec.DecodeError as exc:
        detail = {"stdout": done.stdout, "stderr": done.stderr}
        raise NodeError(f"stdout is not JSON: {exc}", retryable=False, detail=detail) from None
