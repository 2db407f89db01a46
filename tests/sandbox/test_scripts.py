"""What a script sees, what it answers, and how its errors read, in every language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.contracts import ConfigError, Limits, NodeError
from tests.sandbox.conftest import Bench

PAYLOAD: dict[str, Any] = {
    "t": 21.5,
    "n": 3,
    "name": "Grün 🌱 'x' \"y\" $z",
    "ok": True,
    "no": None,
    "l": [1, [], {"a": "b"}],
}

ECHO = {
    "python": "return payload",
    "javascript": "return payload",
    "bash": "cat",
    "php": "$payload['l'][2] = (object) $payload['l'][2]; return $payload;",
    "perl": "return $payload;",
    "ruby": "payload",
}
DOUBLE = {
    "python": "print('hello')\nreturn payload['n'] * 2",
    "javascript": "console.log('hello')\nreturn payload.n * 2",
    "bash": "echo hello >&2\nIFS=: read -r _ n < <(tr -d '}')\necho $((n * 2))",
    "php": "echo \"hello\\n\";\nreturn $payload['n'] * 2;",
    "perl": 'print "hello\\n";\nreturn $payload->{n} * 2;',
    "ruby": "puts 'hello'\nreturn payload['n'] * 2",
}
BROKEN = {
    "python": "x = 1\nundefined_name()",
    "javascript": "let x = 1\nundefined_name()",
    "bash": "x=1\nset -e\nundefined_name",
    "php": "$x = 1;\nundefined_name();",
    "perl": "my $x = 1;\nundefined_name();",
    "ruby": "x = 1\nundefined_name()",
}
UNPARSABLE = {
    "python": "x = 1\ny = = 2",
    "javascript": "let x = 1\nlet y = = 2",
    "php": "$x = 1;\n$y = = 2;",
    "perl": "my $x = 1;\nmy $y = = 2;",
    "ruby": "x = 1\ny = = 2",
}
LANGUAGES = sorted(ECHO)


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_come_back_as_they_went_in(bench: Bench, language: str) -> None:
    done = bench.script(language, ECHO[language], PAYLOAD)
    assert done.output == PAYLOAD
    assert type(done.output["ok"]) is bool
    assert done.code == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_result_and_what_is_printed(bench: Bench, language: str) -> None:
    done = bench.script(language, DOUBLE[language], {"n": 21})
    assert done.output == 42
    assert "hello\n" in (done.stderr if language == "bash" else done.stdout)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_error_names_its_line(bench: Bench, language: str) -> None:
    with pytest.raises(NodeError, match="undefined_name") as caught:
        bench.script(language, BROKEN[language])
    error = caught.value
    assert "line 2" in error.message or "line 3" in error.message
    assert "undefined_name" in error.detail["stderr"]
    assert "runners" not in error.detail["stderr"]
    assert error.retryable


@pytest.mark.parametrize("language", sorted(UNPARSABLE))
def test_a_syntax_error_is_not_tried_again(bench: Bench, language: str) -> None:
    with pytest.raises(NodeError, match=r"line 2|script\.rb:2") as caught:
        bench.script(language, UNPARSABLE[language])
    assert not caught.value.retryable
    assert caught.value.detail["stderr"]


@pytest.mark.parametrize(
    ("language", "code", "output"),
    [
        ("python", "result = [payload]", ["in"]),
        ("python", "x = 1", None),
        ("python", "", None),
        ("python", "from __future__ import annotations\ndef f(n): return n and f(n - 1)\nreturn f(9)", 0),
        ("python", "text = '''a\n  b'''\nreturn text", "a\n  b"),
        ("python", "import datetime\nreturn (datetime.date(2026, 1, 2),)", ["2026-01-02"]),
        ("python", "raise SystemExit", None),
        ("python", "if __name__ == '__main__':\n    return 1", 1),
        ("python", "import dataclasses as d\n@d.dataclass\nclass P:\n    x: int\nreturn d.asdict(P(1))", {"x": 1}),
        ("javascript", "x = 1", None),
        ("javascript", "return await Promise.resolve(payload) // a comment", "in"),
        ("javascript", "return require('path').join('a', payload)", "a/in"),
        ("javascript", "setInterval(() => {}, 1000); return 1", 1),
        ("javascript", "process.exit(0)", None),
        ("bash", "echo '{\"a\": 1}'", {"a": 1}),
        ("bash", "echo plain; echo text", "plain\ntext"),
        ("bash", "true", None),
        ("bash", "read -r x; echo $x", "in"),
        ("bash", "echo $0 $#", "script 0"),
        ("php", "<?php\nreturn strtoupper($payload);", "IN"),
        ("php", "function f(int $n): int { return $n; }\nreturn ['a' => f(2), 'b' => 1.0];", {"a": 2, "b": 1.0}),
        ("php", "$x = 1;", None),
        ("php", "exit(0);", None),
        ("perl", "my $x = lc 'ÄB'; $x", "äb"),
        ("perl", "sub f { return $_[0] + 1 } return { a => f(1), b => [] };", {"a": 2, "b": []}),
        ("perl", "exit 0;", None),
        ("ruby", "def f(n) = n + 1\n{ 'a' => f(1), b: nil }", {"a": 2, "b": None}),
        ("ruby", "exit", None),
        ("ruby", "class P; end\nP.name", "P"),
    ],
)  # fmt: skip
def test_the_ways_to_answer(bench: Bench, language: str, code: str, output: Any) -> None:
    assert bench.script(language, code, "in").output == output


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "return {1, 2}"),
        ("python", "return float('nan')"),
        ("python", "return object"),
        ("javascript", "return 10n"),
        ("javascript", "const a = {}; a.a = a; return a"),
        ("php", "return NAN;"),
        ("php", 'return "\\xff";'),
        ("perl", "return sub { 1 };"),
        ("ruby", "Float::NAN"),
    ],
)
def test_what_is_not_json_is_an_error(bench: Bench, language: str, code: str) -> None:
    with pytest.raises(NodeError, match="not JSON"):
        bench.script(language, code)


@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("python", "raise SystemExit(3)", "ended itself with 3"),
        ("python", "raise ValueError('bad \\udcff')", "ValueError: bad"),
        ("javascript", "process.exit(3)", "exit code 3"),
        ("javascript", "throw 'plain'", "threw plain"),
        ("javascript", "setTimeout(() => { throw new TypeError('late') }); await new Promise(() => {})", "late"),
        ("bash", "echo why >&2; exit 3", "exit code 3: why"),
        ("bash", "if fi", "syntax error"),
        ("php", "exit(3);", "exit code 3"),
        ("php", "throw new RuntimeException('bad');", r"RuntimeException: bad \(line 1\)"),
        ("php", "interface I { function f(); } class C implements I {}", "must.*implement"),
        ("perl", "die { code => 1 }", "HASH"),
        ("perl", "exit 3", "exit code 3"),
        ("ruby", "raise 'bad'", r"RuntimeError: bad \(line 1\)"),
        ("ruby", "exit 3", "exit code 3"),
    ],
)
def test_the_ways_to_fail(bench: Bench, language: str, code: str, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        bench.script(language, code)


def test_large_values_go_through(bench: Bench) -> None:
    payload = ["x" * 1000] * 2000
    for language, code in ECHO.items():
        if language != "php":
            assert bench.script(language, code, payload, Limits(output_kb=4096)).output == payload


def test_code_that_cannot_be_run(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="no script language"):
        bench.script("cobol", "x")
    with pytest.raises(ConfigError, match="NUL"):
        bench.script("python", "x\0")
    with pytest.raises(ConfigError, match="at most"):
        bench.script("bash", "# " + "x" * 140_000)
    assert bench.script("bash", "# " + "x" * 100_000 + "\necho 1").output == 1


def test_a_language_that_is_not_installed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(bench.sandbox.languages()) == set(LANGUAGES)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("appliance.sandbox.languages.PATH", "/nowhere")
    assert bench.sandbox.languages() == {}
    with pytest.raises(ConfigError, match="no interpreter for ruby"):
        bench.script("ruby", "1")


def test_confinement_can_be_demanded(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    limits = Limits(confined=True)
    if bench.confined:
        assert bench.script("python", "return 1", limits=limits).output == 1
        assert bench.sandbox.status()["confined"]
    else:
        with pytest.raises(ConfigError, match="cannot keep a script"):
            bench.script("python", "return 1", limits=limits)
        assert bench.sandbox.status()["why"] == "it is switched off"
