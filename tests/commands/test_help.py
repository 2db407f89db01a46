"""Every command explains itself, and docs/cli.md says the same."""

from __future__ import annotations

import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from appliance.cli import main
from appliance.commands._base import EXIT_CODES, Leaf
from appliance.commands._runs import EXIT, UNDER_WAY
from scripts.docsgen.commands import leaves, page
from scripts.docsgen.pages import ROOT

LEAVES = dict(leaves())

#: What the issue promises.
PROMISED = """
up, init, key show, key rotate, key recover, key file, flow list, flow show, flow validate, flow deploy, flow export,
flow import, flow diff, flow rollback, flow undeploy, flow delete, run, runs, show, replay, cancel, approvals, answer,
decide, dead-letters list, dead-letters show, dead-letters replay, dead-letters discard, trigger list, trigger test,
secret set, secret list, secret delete, var set, var list, var delete, token create, token list, token revoke,
settings show, settings set, event, audit list, audit verify, backup, restore, doctor, version
"""


def test_all_that_was_promised_is_there() -> None:
    assert {name.strip() for name in PROMISED.split(",")} <= LEAVES.keys()


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_help_examples_and_json(path: str) -> None:
    command = LEAVES[path]
    assert command.help is not None
    assert "." in command.help.splitlines()[0]
    assert command.examples
    options = {name for option in command.params for name in option.opts}
    assert {"--json", "--data", "--debug"} <= options
    shown = CliRunner().invoke(main, [*path.split(), "--help"])
    assert shown.exit_code == 0
    for example in command.examples:
        assert example in " ".join(shown.output.split()) or example in shown.output


@pytest.mark.parametrize("example", [example for command in LEAVES.values() for example in command.examples])
def test_every_example_is_a_command_with_options_that_it_has(example: str) -> None:
    words = shlex.split(example.rpartition(" | ")[2].partition(" < ")[0].partition(" > ")[0])
    assert words.pop(0) == "flowork"
    found = _resolve(words)
    assert isinstance(found, Leaf)
    # Parses without running: types, counts and names are checked.
    with found.make_context("flowork", words, resilient_parsing=False):
        pass


def _resolve(words: list[str]) -> click.Command:
    found: click.Command = main
    while isinstance(found, click.Group):
        default = getattr(found, "default", "")
        name = words[0] if words and not words[0].startswith("-") else default
        if words and words[0] == name:
            words.pop(0)
        inner = found.get_command(click.Context(found), name)
        assert inner is not None, name
        found = inner
    return found


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == page().rstrip() + "\n", "run scripts/make-docs"


def test_the_page_names_every_command_and_exit_code() -> None:
    text = page()
    assert [path for path in LEAVES if f"### flowork {path}\n" not in text] == []
    assert [code for code in EXIT_CODES if f"| {code} |" not in text] == []
    assert {*EXIT.values(), UNDER_WAY} <= EXIT_CODES.keys()


def test_a_noun_alone_lists() -> None:
    for noun in ("flow", "runs", "dead-letters", "secret", "var", "token", "settings", "audit", "trigger"):
        assert CliRunner().invoke(main, [noun, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "words", [["nonsense"], ["run"], ["runs", "--limit", "0"], ["show", "x"], ["flow", "nonsense"]]
)
def test_what_is_written_wrongly_is_told_in_words(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_the_version_costs_no_heavy_import() -> None:
    heavy = "peewee huey flask jinja2 cryptography rich httpx appliance.kernel appliance.store appliance.registry"
    code = (
        "import sys; sys.argv = ['flowork', 'version']\n"
        "from appliance.cli import main\n"
        "main(standalone_mode=False)\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"
