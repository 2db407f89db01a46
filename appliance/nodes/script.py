r"""Runs a script in Python, JavaScript, Bash, PHP, Perl or Ruby.

JSON in, JSON out. Python, JavaScript and Ruby see `payload`, PHP and Perl `$payload`, Bash has it as JSON on
standard input. The output is what the script returns (Python also: what it leaves in `result`; Perl and Ruby
also: its last value); for Bash it is what it prints, as JSON if it is JSON and else as text. Everything else that
is printed is kept with the step. A script runs in a clean environment with a private `/tmp` and, unless `network`
is on, without network; then it counts as `pure` and is simply run again after a power cut. With `network` it
counts as `once`; say `idempotent` if running it twice does no harm.

    {"language": "python", "code": "return {\"f\": payload[\"c\"] * 9 / 5 + 32}"}
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import (
    Code,
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    FlowError,
    Limits,
    Node,
    Problem,
    World,
    seconds,
)

Language = Literal["python", "javascript", "bash", "php", "perl", "ruby"]
#: Debian's packages of the interpreters. perl-base, which is always there, knows no JSON.
PACKAGES = {
    "python": "python3",
    "javascript": "nodejs",
    "bash": "bash",
    "php": "php-cli",
    "perl": "perl",
    "ruby": "ruby",
}
#: Seconds a syntax check may take while a flow is being saved.
_CHECK_TIMEOUT = 10.0


class ScriptConfig(Config, frozen=True, kw_only=True):
    language: Annotated[Language, Meta(title="Language")] = "python"
    code: Annotated[Code, Meta(title="Code", description="Never a template.", min_length=1, max_length=1_000_000)]
    timeout: Annotated[Duration, Meta(title="Timeout", description="After this it is ended.")] = 60.0
    cpu: Annotated[float, Meta(title="CPU seconds", gt=0, le=86400)] = 30.0
    memory_mb: Annotated[int, Meta(title="Memory, MiB", ge=16, le=65536)] = 256
    output_kb: Annotated[int, Meta(title="Largest output, KiB", ge=1, le=65536)] = 1024
    network: Annotated[bool, Meta(title="Network", description="May reach the network.")] = False
    effect: Annotated[
        Effect | None,
        Meta(title="Effect", description="pure without network, once with it, unless it is said here."),
    ] = None


class Script(Node[ScriptConfig]):
    Config = ScriptConfig
    title = "Script"
    category = "code"
    icon = "code"
    effect = Effect.ONCE

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        """Without network a script that the sandbox confines cannot touch the world.

        ``run`` demands that confinement when the effect is left open, so ``pure`` is true where it is said.
        """
        chosen = config.get("effect")
        if chosen is None:
            return Effect.PURE if config.get("network", False) is False else Effect.ONCE
        return Effect(chosen) if chosen in list(Effect) else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        language, code = config.get("language", "python"), config.get("code")
        interpreter = world.languages().get(language)
        if language in PACKAGES and interpreter is None:
            yield Problem("language", _missing(language))
        elif isinstance(code, str) and (fault := _fault(language, code, interpreter or "")):
            yield Problem("code", fault)
        if config.get("effect") is None and self.effect_of(config) is Effect.PURE and not world.confined():
            yield Problem(
                "effect",
                "bubblewrap does not work on this machine, so nothing keeps the script from files and network: "
                "install it (apt install bubblewrap) or choose an effect",
            )

    async def run(self, ctx: Context, config: ScriptConfig, payload: Any) -> Any:
        limits = Limits(
            timeout=_positive(config.timeout),
            cpu=config.cpu,
            memory_mb=config.memory_mb,
            output_kb=config.output_kb,
            network=config.network,
            confined=config.effect is None and not config.network,
        )
        try:
            done = await ctx.sandbox.script(config.language, config.code, payload, limits)
        except ConfigError:
            if config.language in ctx.sandbox.languages():
                raise
            raise ConfigError(_missing(config.language)) from None
        except FlowError as exc:
            if isinstance(exc.detail, dict):
                _keep(ctx, exc.detail.get("stdout", ""), exc.detail.get("stderr", ""))
            raise
        _keep(ctx, "" if config.language == "bash" else done.stdout, done.stderr)
        return done.output


def _missing(language: str) -> str:
    return f"{language} is not installed on this machine: apt install {PACKAGES[language]}"


def _positive(timeout: float | str) -> float:
    value = seconds(timeout)
    if value == 0:
        raise ConfigError("timeout must be more than 0 seconds")
    return value


def _keep(ctx: Context, stdout: str, stderr: str) -> None:
    """What was printed stays with the step."""
    if stdout.strip():
        ctx.log(stdout.rstrip("\n"))
    if stderr.strip():
        ctx.log(stderr.rstrip("\n"), "warning")


def _fault(language: str, code: str, interpreter: str) -> str:
    """Why the code does not even compile; empty if it does, or if only running it could tell."""
    if language == "python":
        return _python_fault(code)
    return _parsed(language, interpreter, code) if language in _PARSERS else ""


def _python_fault(code: str) -> str:
    try:
        tree = ast.parse(code, "script.py")
        # `return` is allowed, as the sandbox makes the code the body of a function.
        function = ast.parse("def script(payload): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body += [line for line in tree.body if not _is_future(line)]
        compile(ast.Module([function], []), "script.py", "exec", dont_inherit=True)
    except SyntaxError as exc:
        return f"{exc.msg} (line {exc.lineno})"
    except (ValueError, RecursionError, MemoryError) as exc:
        return f"cannot be compiled: {exc}"
    return ""


def _is_future(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and line.module == "__future__"


_TAG = re.compile(r"\A\s*<\?php\b")
#: How an interpreter is asked to parse and not to run, and what stands around the code. Perl is missing: its
#: check runs the script's BEGIN blocks.
_PARSERS: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "javascript": (("--check", "-"), lambda code: f"(async function (payload, require) {{{code}\n}})"),
    "bash": (("--norc", "--noprofile", "-n"), lambda code: code),
    "php": (("-d", "display_errors=stderr", "-d", "log_errors=0", "-l"), lambda code: "<?php " + _TAG.sub("", code, 1)),
    "ruby": (("-c",), lambda code: code),
}
_LINE = re.compile(r"(?:\[stdin\]:|\bline |\A-:)(\d+)")
_NOISE = re.compile(
    r"\A(?:bash: line \d+: |-:\d+: |PHP )|"
    r" in (?:Standard input code|-|\[stdin\]) on line \d+\Z"
)


@functools.lru_cache(maxsize=256)
def _parsed(language: str, interpreter: str, code: str) -> str:
    """What an interpreter that only parses says. Takes up to 0.2 s on a Pi, hence remembered."""
    options, wrapped = _PARSERS[language]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    try:
        ended = subprocess.run(
            [interpreter, *options],
            input=wrapped(code).encode(),
            capture_output=True,
            env=environment,
            timeout=_CHECK_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeEncodeError) as exc:
        return f"cannot be checked: {exc}"
    if ended.returncode == 0:
        return ""
    lines = [line.strip() for line in ended.stderr.decode(errors="replace").splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "does not compile")
    place = next((found for line in lines if (found := _LINE.search(line))), None)
    text = _NOISE.sub("", said).strip()
    return f"{text} (line {place[1]})" if place else text
