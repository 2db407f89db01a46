"""Ids made from names, names made searchable, and the cursors of lists."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Container
from typing import Any

import msgspec

from appliance.contracts import ConfigError

_SLUG_LENGTH = 48
_NOT_SLUG = re.compile(r"[^a-z0-9]+")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
#: Entries of a list in one page, at most.
MAX_PAGE = 500


def slug(name: str) -> str:
    """An id of ASCII letters, digits and dashes for a name; ``flow`` if nothing of it is left."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return _NOT_SLUG.sub("-", plain).strip("-")[:_SLUG_LENGTH].rstrip("-") or "flow"


def free_slug(wanted: str, taken: Container[str]) -> str:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3`` … that is not taken."""
    candidate, number = wanted, 1
    while candidate in taken:
        number += 1
        candidate = f"{wanted}-{number}"
    return candidate


def checked_slug(given: str) -> str:
    """An id that somebody chose. Raises ``ConfigError``."""
    if not _SLUG.fullmatch(given):
        raise ConfigError(f"id: {given!r} is not made of a-z, 0-9 and dashes (63 at most, no dash in front)")
    return given


def folded(text: str) -> str:
    """Text as lists sort and search it: without difference of case or of Unicode form."""
    return unicodedata.normalize("NFKC", text).casefold()


def page_size(limit: int) -> int:
    """A limit within bounds."""
    return max(1, min(limit, MAX_PAGE))


def encode_cursor(*position: Any) -> str:
    """The place in a list behind its entry ``position``, opaque to the caller."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def decode_cursor(cursor: str, *kinds: type) -> list[Any]:
    """The position in a cursor. Raises ``ConfigError`` for text that is none of this list's cursors."""
    try:
        raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        position = msgspec.json.decode(raw, type=list[Any])
    except (ValueError, msgspec.MsgspecError):
        position = []
    if len(position) != len(kinds) or not all(
        isinstance(value, kind) for value, kind in zip(position, kinds, strict=True)
    ):
        raise ConfigError("after: this is not a cursor of this list; leave it out to start at the top")
    return position
