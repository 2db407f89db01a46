"""The script languages: their interpreters on this machine and how each is started."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RUNNERS = Path(__file__).resolve().parent / "runners"
#: What a child finds programs by: the system's, not those of the environment the engine runs in.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The longest argument that Linux passes to a program (MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 131_071


@dataclass(frozen=True)
class Language:
    """One language. ``base_mb`` is what its interpreter needs before it runs anything."""

    name: str
    program: str
    runner: str
    base_mb: int
    options: Callable[[int], tuple[str, ...]] = lambda memory_mb: ()
    #: Its interpreter forks for each call and stays; the others serve one call each.
    forks: bool = False
    #: A bound on the address space would stop it from starting: it reserves much and uses little.
    reserves: bool = False
    #: Gets the payload on standard input and answers on standard output.
    by_stdio: bool = False
    #: The most bytes a script may have; 0 for no bound.
    longest: int = 0

    def argv(self, interpreter: str, runners: str, memory_mb: int) -> list[str]:
        return [interpreter, *self.options(memory_mb), f"{runners}/{self.runner}"]


def _node_options(memory_mb: int) -> tuple[str, ...]:
    return (f"--max-old-space-size={memory_mb}",) if memory_mb > 0 else ()


def _php_options(memory_mb: int) -> tuple[str, ...]:
    settings = {
        "memory_limit": f"{memory_mb}M" if memory_mb > 0 else "-1",
        "display_errors": "stderr",
        "log_errors": "0",
        "html_errors": "0",
        "error_reporting": "-1",
    }
    return tuple(word for name, value in settings.items() for word in ("-d", f"{name}={value}"))


LANGUAGES = {
    language.name: language
    for language in (
        Language("python", "python3", "python.py", 16, lambda _: ("-I", "-B"), forks=True),
        Language("javascript", "node", "node.js", 160, _node_options, reserves=True),
        Language(
            "bash",
            "bash",
            "bash.sh",
            8,
            lambda _: ("--norc", "--noprofile"),
            by_stdio=True,
            longest=_LONGEST_ARGUMENT,
        ),
        Language("php", "php", "php.php", 32, _php_options),
        Language("perl", "perl", "perl.pl", 16),
        Language("ruby", "ruby", "ruby.rb", 96),
    )
}


def find(name: str) -> str | None:
    """The interpreter of a language, or None. The system's own comes before any other on the PATH."""
    program = LANGUAGES[name].program
    found = shutil.which(program, path=PATH) or shutil.which(program)
    if found is not None and name == "perl" and not _has_json(found):
        return None
    return found


def usable() -> dict[str, str]:
    """Every language that can be used here, and its interpreter."""
    found = {name: find(name) for name in LANGUAGES}
    return {name: path for name, path in found.items() if path is not None}


@functools.cache
def _has_json(perl: str) -> bool:
    """Debian's perl-base, which is always there, lacks the core modules; the package perl has them."""
    argv = [perl, "-MJSON::PP", "-e", "1"]
    environment = {"PATH": PATH, "HOME": os.sep}
    try:
        ended = subprocess.run(argv, env=environment, capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
