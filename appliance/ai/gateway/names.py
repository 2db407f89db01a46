"""Whose model a name means: ``NAME`` is this machine's, ``UPSTREAM/NAME`` is an upstream's.

An upstream is a provider with a config under a name, as the setting ``model_upstreams`` has them:
``{"openai": {"provider": "openai", "config": {"url": …, "secret": …}}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from appliance.contracts import ConfigError, Provider, decode

#: The built-in provider that has this machine's models.
LOCAL = "local"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class Upstream(Struct, frozen=True, kw_only=True):
    """A place where models are; ``place`` is who sees what is sent there, empty for this machine."""

    name: str
    kind: Provider[Any]
    config: Any
    place: str


class Target(Struct, frozen=True):
    """A model of an upstream; without a name it is the upstream's first."""

    upstream: Upstream
    model: str

    def __str__(self) -> str:
        if self.upstream.name == LOCAL:
            return self.model or "the first model of this machine"
        return f"{self.upstream.name}/{self.model}" if self.model else self.upstream.name


class Upstreams:
    """All that are set up. ``broken`` says why a name cannot be used."""

    def __init__(self, providers: Mapping[str, Provider[Any]], raw: Mapping[str, Any]) -> None:
        self.known: dict[str, Upstream] = {}
        self.broken: dict[str, str] = {}
        for name, kind in providers.items():
            if kind.builtin:
                self._add(name, kind, {})
        for name, entry in raw.items():
            try:
                kind, config = read(providers, name, entry)
                self._add(name, kind, config)
            except ConfigError as exc:
                self.broken[name] = exc.message

    def _add(self, name: str, kind: Provider[Any], raw: Mapping[str, Any]) -> None:
        config = decode(kind.Config, raw)
        self.known[name] = Upstream(name=name, kind=kind, config=config, place=kind.place(config))

    def target(self, name: str) -> Target:
        """What a name means. Raises ``ConfigError`` for an upstream that is not there or not usable."""
        first, slash, rest = name.strip().partition("/")
        if not slash:
            return Target(self._upstream(LOCAL), first)
        if first not in self.known and first not in self.broken:
            there = ", ".join(sorted(self.known)) or "none"
            raise ConfigError(f"the model {name!r}: there is no upstream {first!r}; there are: {there}")
        return Target(self._upstream(first), rest)

    def targets(self, names: Sequence[str], default: Sequence[str]) -> list[Target]:
        """Those of a request, or the default ones; each once, in order. Without a default: this machine's first."""
        wanted = [part for name in names if (part := name.strip())]
        return [self.target(name) for name in dict.fromkeys(wanted or default or ("",))]

    def _upstream(self, name: str) -> Upstream:
        if name in self.broken:
            raise ConfigError(f"the upstream {name!r} cannot be used: {self.broken[name]}")
        if name not in self.known:
            raise ConfigError("this engine has no models of its own: its local provider is disabled")
        return self.known[name]


def read(providers: Mapping[str, Provider[Any]], name: str, entry: Any) -> tuple[Provider[Any], dict[str, Any]]:
    """The provider and the config (not decoded) of an upstream as saved. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be an upstream's name; take a-z, 0-9, - and _ (40 at most)")
    if not isinstance(entry, Mapping) or not isinstance(entry.get("config", {}), Mapping):
        raise ConfigError(f'{name}: must be {{"provider": NAME, "config": {{…}}}}')
    if unknown := sorted(set(entry) - {"provider", "config"}):
        raise ConfigError(f"{name}: there is no field {unknown[0]!r}; there are: provider, config")
    if name in providers and providers[name].builtin:
        raise ConfigError(f"{name!r} is built in; name the upstream otherwise")
    kind = providers.get(str(entry.get("provider", "openai")))
    if kind is None or kind.builtin:
        usable = ", ".join(sorted(each for each, provider in providers.items() if not provider.builtin))
        raise ConfigError(f"{name}: there is no provider {entry.get('provider')!r}; there are: {usable}")
    return kind, dict(entry.get("config", {}))
