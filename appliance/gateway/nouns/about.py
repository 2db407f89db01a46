"""About: what this engine is made of."""

from __future__ import annotations

import platform
import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.version import VERSION
from appliance.store.errors import NotFound

#: Longer ones are the licence itself.
_LONGEST_NAME = 60
#: How the MIT licence begins; some packages have its text and nowhere its name.
_MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"

noun = Noun("about", "What this engine is: its version, its id, and the libraries that it stands on.")

LibraryName = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="A library's name")]


class Library(Struct, frozen=True):
    """A Python library that is installed with the engine; ``licence`` as its authors write it."""

    name: str
    version: str
    licence: str
    summary: str
    homepage: str


class Licence(Struct, frozen=True):
    """The words under which a library may be used, as it came with them; empty if it came without."""

    name: str
    licence: str
    text: str


class About(Struct, frozen=True, kw_only=True):
    """The engine and what it stands on; ``system`` and ``machine`` name the operating system and the processor."""

    version: str
    engine: str
    address: str
    licence: str
    python: str
    sqlite: str
    system: str
    machine: str
    libraries: list[Library]


@noun.get("/about", permission="health:read", anywhere=True, etag=True)
def show(call: Call[Nothing, Nothing]) -> About:
    """What this engine is."""
    return About(
        version=VERSION,
        engine=call.gateway.engine.id,
        address=call.gateway.engine.address,
        licence=_licence(_find("flowork")),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        system=_system(),
        machine=platform.machine(),
        libraries=_libraries(),
    )


@noun.get("/about/licences/{name}", permission="health:read", anywhere=True, errors=(404,), etag=True)
def licence(call: Call[Nothing, Nothing], name: LibraryName) -> Licence:
    """The licence of a library that the engine stands on."""
    if all(name != library.name for library in _libraries()) or (found := _find(name)) is None:
        raise NotFound(f"there is no library {name!r} here")
    return Licence(name, _licence(found), _text(found))


@cache
def _libraries() -> list[Library]:
    """All that flowork needs and that what it needs needs, as far as it is installed. Once: it reads many files."""
    return sorted((_library(one) for one in _needed(_find("flowork"), {"flowork"})), key=lambda one: one.name.lower())


def _needed(of: Distribution | None, met: set[str]) -> Iterator[Distribution]:
    for text in of.requires or [] if of is not None else []:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        key = re.sub(r"[-_.]+", "-", name).lower()
        # What an extra needs was not asked for by anybody yet, however it came here.
        if key in met or "extra ==" in text or (found := _find(name)) is None:
            continue
        met.add(key)
        yield found
        yield from _needed(found, met)


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _library(of: Distribution) -> Library:
    return Library(of.metadata["Name"], of.version, _licence(of), _field(of, "Summary"), _homepage(of))


def _licence(of: Distribution | None) -> str:
    """Old packages name it in a classifier, or have its whole text in the field."""
    if of is None:
        return ""
    if expression := _field(of, "License-Expression"):
        return expression
    classifiers = [line.rpartition(" :: ")[2] for line in _fields(of, "Classifier") if line.startswith("License")]
    first = _field(of, "License").strip().partition("\n")[0]
    if 0 < len(first) <= _LONGEST_NAME:
        return first
    return ", ".join(classifiers) or ("MIT" if _MIT in " ".join(_text(of).split()) else "")


def _text(of: Distribution) -> str:
    """The files that hold the licence, one behind the other."""
    names = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
    files = [path for path in of.files or [] if ".dist-info" in str(path) and path.name.upper().startswith(names)]
    return "\n\n".join(Path(path.locate()).read_text(errors="replace").strip() for path in files)


def _homepage(of: Distribution) -> str:
    """Where its authors tell about it."""
    urls = dict(text.split(", ", 1) for text in _fields(of, "Project-URL") if ", " in text)
    named = {name.lower(): url for name, url in urls.items()}
    for name in ("homepage", "source", "repository", "source code", "documentation"):
        if name in named:
            return named[name]
    return _field(of, "Home-page") or next(iter(urls.values()), "")


def _field(of: Distribution, name: str) -> str:
    return next(iter(_fields(of, name)), "")


def _fields(of: Distribution, name: str) -> list[str]:
    return of.metadata.get_all(name, [])


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
