"""The forms in which a secret turns up when it leaks: as it is, escaped, quoted, encoded.

==========================  ==================================================================================
length of the secret        sought
==========================  ==================================================================================
below 4                     nothing: it would be found everywhere. The vault takes no such secret
4 to 7                      as it is, URL-quoted, escaped as JSON (also twice), HTML and Python text; each only
                            where no ASCII letter or digit stands directly before or behind it
8 and more                  the same anywhere, hex in both cases, base64 and base64url in all three alignments
                            (so also inside ``Authorization: Basic``); every line of 16 and more on its own
==========================  ==================================================================================

The password inside a secret URL is sought as well. Not found: a secret that a flow has cut, reversed, hashed,
encrypted, compressed or turned into another type, such as text of digits into a number inside msgpack.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote, urlsplit

MIN_LENGTH = 4
#: From here on a secret is sought anywhere and in its encoded forms.
LONG = 8
_LINE = 16
_TELLING = re.compile(
    r"(?:^|_)(PASSWORD|PASSWD|PASSPHRASE|PASS|PW|SECRET|TOKEN|APIKEY|KEY|CREDENTIALS?|PRIVATE|DSN)(?:_|$)"
)
_PERCENT = re.compile(r"%[0-9A-F]{2}")


def forms(value: str) -> dict[str, bool]:
    """All texts to look for on behalf of one secret, and for each whether it counts in the middle of a word."""
    found: dict[str, bool] = {}
    for part in _parts(value):
        anywhere = len(part.strip()) >= LONG
        texts = {*_written(part), *(_encoded(part.encode(errors="surrogatepass")) if anywhere else ())}
        found.update({text: anywhere or found.get(text, False) for text in texts})
    return found


def environment_secrets(environment: Mapping[str, str]) -> list[str]:
    """The values of variables that look secret: by their name, or as a URL with a password in it."""
    return [
        value
        for name, value in environment.items()
        if len(value) >= LONG and (_TELLING.search(name.upper()) or _password(value))
    ]


def _parts(value: str) -> Iterator[str]:
    """The secret, and what of it is likely to be used alone."""
    stripped = value.strip()
    lines = (line.strip() for line in value.splitlines())
    candidates = [value, stripped, *_password(value)]
    candidates += [line for line in lines if len(line) >= _LINE and not line.startswith("-----")]
    return (part for part in dict.fromkeys(candidates) if len(part.strip()) >= MIN_LENGTH)


def _password(value: str) -> list[str]:
    if "://" not in value or "@" not in value:
        return []
    try:
        password = urlsplit(value.strip()).password
    except ValueError:
        return []
    return [password, unquote(password)] if password else []


def _written(part: str) -> Iterable[str]:
    yield part
    for quoted in _quoted(part):
        yield quoted
        yield _PERCENT.sub(lambda match: match[0].lower(), quoted)
    for ascii_only in (True, False):
        escaped = json.dumps(part, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")
        yield json.dumps(escaped, ensure_ascii=ascii_only)[1:-1]
    yield html.escape(part)
    yield html.escape(part, quote=False)
    yield repr(part)[1:-1]
    yield ascii(part)[1:-1]


def _quoted(part: str) -> Iterable[str]:
    raw = part.encode(errors="surrogatepass")
    return quote(raw), quote(raw, safe=""), quote_plus(raw)


def _encoded(raw: bytes) -> Iterable[str]:
    yield raw.hex()
    yield raw.hex().upper()
    for before in range(3):
        # The first and last digits of a foreign alignment also hold bits of the neighbours: leave them out.
        start, end = (8 * before + 5) // 6, 8 * (before + len(raw)) // 6
        digits = base64.b64encode(bytes(before) + raw).decode()[start:end]
        yield digits
        yield digits.replace("+", "-").replace("/", "_")
