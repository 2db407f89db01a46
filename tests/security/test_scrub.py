"""Secrets are found in whatever form they leak, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import urllib.parse
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.security.scrub import MASK, Scrubber, ScrubFilter, environment_secrets
from appliance.security.scrub_forms import forms
from appliance.security.secret import Secret

PASSWORD = "tr0ub4dor&3/ü\"x'"
SCRUBBER = Scrubber([PASSWORD, Secret("hunter2hunter2"), "1234"])
FORMS = {
    "plain": PASSWORD,
    "url": urllib.parse.quote(PASSWORD),
    "url, all": urllib.parse.quote(PASSWORD, safe=""),
    "url, lower case": urllib.parse.quote(PASSWORD, safe="").replace("%C3%BC", "%c3%bc").replace("%2F", "%2f"),
    "form": urllib.parse.urlencode({"p": PASSWORD}).removeprefix("p="),
    "json": json.dumps(PASSWORD)[1:-1],
    "json, utf-8": msgspec.json.encode(PASSWORD).decode()[1:-1],
    "json in json": json.dumps(json.dumps(PASSWORD))[3:-3],
    "json of php": json.dumps(PASSWORD).replace("/", "\\/")[1:-1],
    "html": html.escape(PASSWORD),
    "python": repr(PASSWORD)[1:-1],
    "python, ascii": ascii(PASSWORD)[1:-1],
    "hex": PASSWORD.encode().hex(),
    "HEX": PASSWORD.encode().hex().upper(),
    "base64": base64.b64encode(PASSWORD.encode()).decode().rstrip("="),
    "base64url": base64.urlsafe_b64encode(PASSWORD.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str) -> None:
    text = f"before {FORMS[form]} after"
    assert SCRUBBER.found_in(text.encode())
    cleaned = SCRUBBER.scrub_text(text)
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert MASK in cleaned
    assert not [found for found in forms(PASSWORD) if found in cleaned]
    assert SCRUBBER.scrub_bytes(text.encode()).decode() == cleaned


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "anna"])
def test_basic_authentication_in_every_alignment(user: str) -> None:
    for tail in ("", "x", "xy"):
        token = base64.b64encode(f"{user}:hunter2hunter2{tail}".encode()).decode()
        cleaned = SCRUBBER.scrub({"Authorization": f"Basic {token}"})
        assert MASK in cleaned["Authorization"]
        left = cleaned["Authorization"].replace(MASK, "AAAA")
        assert "unter2hunter" not in left


@pytest.mark.parametrize("offset", range(17))
@pytest.mark.parametrize("secret", ["sevench", "eightcha", "fourteen-chars", "fifteen-chars-x", "x" * 7 + "y" * 40])
def test_wherever_it_lies(secret: str, offset: int) -> None:
    """The search reads whole words: every alignment, and both ends of the data, must be seen."""
    scrubber = Scrubber([secret])
    for tail in range(9):
        data = b" " * offset + secret.encode() + b" " * tail
        assert scrubber.found_in(data)
        assert scrubber.scrub_bytes(data) == data.replace(secret.encode(), MASK.encode())
        assert not scrubber.found_in(data.replace(secret.encode()[-4:], b"...."))


@given(
    secrets=st.lists(st.text(st.characters(codec="utf-8"), min_size=4, max_size=40), max_size=5),
    before=st.binary(max_size=20),
    after=st.binary(max_size=20),
)
@example(secrets=["aaaa" * 4], before=b"aaa", after=b"aa")
def test_found_in_never_misses(secrets: list[str], before: bytes, after: bytes) -> None:
    scrubber = Scrubber(secrets)
    for secret in (secret for secret in secrets if len(secret.strip()) >= 4):
        for form in (secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret)):
            assert scrubber.found_in(before + form.encode() + after)


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=8, max_size=30).filter(lambda text: len(text.strip()) >= 8),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
def test_nothing_of_a_long_secret_is_left(secret: str, before: str, after: str) -> None:
    cleaned = Scrubber([secret]).scrub({"a": [f"{before}{secret}{after}"]})
    assert secret not in cleaned["a"][0] or secret in MASK


@given(text=st.text(max_size=200))
def test_innocent_text_is_left_alone(text: str) -> None:
    scrubber = Scrubber(["0xDEADBEEFDEADBEEF-not-in-any-text"])
    assert scrubber.scrub_text(text) is text


def test_without_secrets_everything_passes() -> None:
    scrubber = Scrubber()
    value = {"a": ["b", 1, b"c"]}
    assert scrubber.scrub(value) == value
    assert not scrubber.found_in(b"x" * 1000)


class TestShortSecrets:
    """A PIN of four digits must go, but not every 1234 inside a longer number."""

    @pytest.mark.parametrize("text", ["1234", "pin=1234", "pin:1234,", "(1234)", '{"pin":"1234"}', "a/1234/b"])
    def test_as_a_word(self, text: str) -> None:
        assert SCRUBBER.scrub_text(text) == text.replace("1234", MASK)

    @pytest.mark.parametrize("text", ["01234", "12345", "x1234", "1234x", "1790001234.5"])
    def test_not_inside_one(self, text: str) -> None:
        assert SCRUBBER.scrub_text(text) == text
        assert SCRUBBER.scrub_bytes(text.encode()) == text.encode()

    def test_three_characters_are_not_sought(self) -> None:
        scrubber = Scrubber(["abc", "", "  a "])
        assert not scrubber.found_in(b"abc   a ")


class TestParts:
    def test_a_pasted_line_break_does_not_hide_it(self) -> None:
        assert Scrubber(["  hunter2hunter2\n"]).scrub_text("is hunter2hunter2.") == f"is {MASK}."

    def test_the_password_of_a_url(self) -> None:
        scrubber = Scrubber(["postgres://flow:p%40ss-word-9@db.lan/flow"])
        for leak in ("p%40ss-word-9", "p@ss-word-9", "postgres://flow:p%40ss-word-9@db.lan/flow"):
            assert leak not in scrubber.scrub_text(f"could not connect: {leak} refused")
        assert scrubber.scrub_text("db.lan is away") == "db.lan is away"

    def test_every_line_of_a_key_file(self) -> None:
        lines = [
            "-----BEGIN PRIVATE KEY-----",
            "MIIEvQIBADANBgkqhkiG9w0BAQE",
            "FAASCBKcwggSjAgEAAoIBAQC7",
            "-----END-----",
        ]
        scrubber = Scrubber(["\n".join(lines)])
        for text in ("\n".join(lines), "\r\n".join(lines), json.dumps("\n".join(lines)), f"  | {lines[1]}"):
            cleaned = scrubber.scrub_text(text)
            assert lines[1] not in cleaned
            assert lines[2] not in cleaned
        assert scrubber.scrub_text(lines[0]) == lines[0]

    def test_a_short_password_in_a_long_url_is_a_word(self) -> None:
        scrubber = Scrubber(["mqtt://anna:rain@broker.lan:1883"])
        assert scrubber.scrub_text("rain in the train") == f"{MASK} in the train"

    def test_one_secret_inside_another(self) -> None:
        scrubber = Scrubber(["password1", "password1-and-more"])
        assert scrubber.scrub_text("a password1-and-more b password1 c") == f"a {MASK} b {MASK} c"


class TestValues:
    def test_nested(self) -> None:
        value = {
            "list": [{"deep": ("x hunter2hunter2", None, True, 1.5)}],
            "hunter2hunter2": "key",
            b"bytes": b"\xffhunter2hunter2\0",
            "set": {"hunter2hunter2"},
            "fine": [1, "two", b"three"],
        }
        cleaned = SCRUBBER.scrub(value)
        assert cleaned == {
            "list": [{"deep": (f"x {MASK}", None, True, 1.5)}],
            MASK: "key",
            b"bytes": b"\xff" + MASK.encode() + b"\0",
            "set": frozenset({MASK}),
            "fine": [1, "two", b"three"],
        }
        assert "hunter2hunter2" in value, "what was given is not changed"

    def test_numbers_that_are_a_secret(self) -> None:
        scrubber = Scrubber(["31415926"])
        assert scrubber.scrub([31415926, 31415926.5, 3141592]) == [MASK, MASK, 3141592]
        assert scrubber.scrub({31415926: 1}) == {MASK: 1}

    def test_objects(self) -> None:
        class Leaky:
            def __str__(self) -> str:
                return "has hunter2hunter2"

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        fine = object()
        assert SCRUBBER.scrub([Leaky(), Broken(), fine, Secret("x")]) == [MASK, MASK, fine, Secret("x")]
        assert SCRUBBER.scrub(ValueError("hunter2hunter2")) == MASK

    def test_depth(self) -> None:
        value: object = "hunter2hunter2"
        for _ in range(100_000):
            value = [value]
        assert "hunter2" not in str(SCRUBBER.scrub(value))

    def test_half_surrogates(self) -> None:
        assert SCRUBBER.scrub_text("\ud800 hunter2hunter2") == f"\ud800 {MASK}"
        assert Scrubber(["half \ud800 pair"]).scrub_text("a half \ud800 pair") == f"a {MASK}"

    def test_a_large_value(self) -> None:
        scrubber, blob = Scrubber(["hunter2hunter2"]), bytes(range(256)) * 4096
        assert not scrubber.found_in(blob)
        assert scrubber.found_in(blob + b"hunter2hunter2")


def test_update_swaps_the_secrets() -> None:
    scrubber = Scrubber(["first-secret"])
    scrubber.update([Secret("second-secret")])
    assert scrubber.scrub_text("first-secret second-secret") == f"first-secret {MASK}"


class TestLogging:
    @pytest.fixture
    def log(self) -> Iterator[tuple[logging.Logger, io.StringIO]]:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(extra)s", defaults={"extra": ""}))
        handler.addFilter(ScrubFilter(SCRUBBER))
        logger = logging.getLogger("tests.security.scrub")
        logger.propagate = False
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        yield logger, stream
        logger.removeHandler(handler)

    def test_messages_and_arguments(self, log: tuple[logging.Logger, io.StringIO]) -> None:
        logger, stream = log
        logger.info("using hunter2hunter2")
        logger.info("using %s and %r", "hunter2hunter2", {"p": PASSWORD})
        logger.info("nothing %d", 5)
        logger.info("with extra", extra={"extra": {"p": "hunter2hunter2"}})
        assert stream.getvalue().splitlines() == [
            f"INFO using {MASK} ",
            f"INFO using {MASK} and {{'p': '{MASK}'}} ",
            "INFO nothing 5 ",
            f"INFO with extra {{'p': '{MASK}'}}",
        ]

    def test_from_a_child_logger(self, log: tuple[logging.Logger, io.StringIO]) -> None:
        logger, stream = log
        logger.getChild("deep").warning("hunter2hunter2")
        assert stream.getvalue() == f"WARNING {MASK} \n"

    def test_tracebacks(self, log: tuple[logging.Logger, io.StringIO]) -> None:
        logger, stream = log
        try:
            try:
                raise ConnectionError("mqtt://anna:hunter2hunter2@broker refused")
            except ConnectionError as exc:
                raise ValueError("failed") from exc
        except ValueError:
            logger.exception("oh", stack_info=True)
        shown = stream.getvalue()
        assert "hunter2" not in shown.replace('raise ConnectionError("mqtt://anna:hunter2', "")
        assert "Traceback" in shown
        assert "ValueError: failed" in shown
        assert f"mqtt://anna:{MASK}@broker" in shown

    def test_arguments_that_do_not_fit(
        self, log: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str]
    ) -> None:
        logger, stream = log
        logger.info("hunter2hunter2 %d", "hunter2hunter2")
        assert "do not fit" in stream.getvalue()
        assert "hunter2" not in stream.getvalue() + capsys.readouterr().err


def test_secrets_of_the_environment() -> None:
    found = environment_secrets(
        {
            "SMTP_PASSWORD": "correct-horse",
            "apiKey": "in-any-case",
            "OPENAI_API_KEY": "sk-0123456789",
            "FLOWORK_DATABASE_URL": "postgresql://flow:secret-word@db/flow",
            "HOMEPAGE": "https://example.org/a@b",
            "PWD": "/home/anna/flowork",
            "KEYBOARD": "de-latin1-nodeadkeys",
            "TOKEN": "short",
            "PATH": "/usr/bin:/usr/local/bin",
        }
    )
    assert sorted(found) == ["correct-horse", "in-any-case", "postgresql://flow:secret-word@db/flow", "sk-0123456789"]
