"""Whose model a name means: ``NAME`` is this machine's, ``UPSTREAM/NAME`` is an upstream's.

An upstream is a provider with a config under a name, as the setting ``model_upstreams`` has them:
``{"openai": {"provider": "openai", "config": {"url": …, "secret": …}, "at_once": 2}}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ConfigError, Provider, decode

#: The built-in provider that has this machine's models.
LOCAL = "local"
#: The built-in provider that has the models of paired engines.
PEER = "peer"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


Bound = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Money = Annotated[float, Meta(ge=0, le=1_000_000)]


class Limits(Struct, frozen=True, kw_only=True):
    """How much an upstream is asked; 0 does not bind. Prices are US dollars a million tokens, where the list of prices
    does not know them or is wrong.
    """

    at_once: Annotated[Bound, Meta(description="Requests at once; more wait, by their flow's priority")] = 8
    requests_minute: Annotated[Bound, Meta(description="Requests in a minute; more wait")] = 0
    tokens_minute: Annotated[Bound, Meta(description="Tokens in a minute")] = 0
    budget_day: Annotated[Money, Meta(description="US dollars in a day")] = 0.0
    price_in: Annotated[Money, Meta(description="US dollars a million tokens of prompt")] | None = None
    price_out: Annotated[Money, Meta(description="US dollars a million tokens of answer")] | None = None


class Entry(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream as it is set up."""

    provider: Annotated[str, Meta(description="The kind of place, a file in appliance/ai/providers")] = "openai"
    config: Annotated[dict[str, Any], Meta(description="As the provider wants it")] = {}


class Upstream(Struct, frozen=True, kw_only=True):
    """A place where models are; ``place`` is who sees what is sent there, empty for this machine."""

    name: str
    kind: Provider[Any]
    config: Any
    place: str
    limits: Limits = Limits()

    @property
    def url(self) -> str:
        """Its address, by which the list of prices knows it."""
        return str(getattr(self.config, "url", ""))


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
                self.known[name] = _made(name, kind, {}, Limits(at_once=0))
        for name, entry in raw.items():
            try:
                self.known[name] = read(providers, name, entry)
            except ConfigError as exc:
                self.broken[name] = exc.message

    def target(self, name: str) -> Target:
        """What a name means. Raises ``ConfigError`` for an upstream that is not there or not usable."""
        first, slash, rest = name.strip().partition("/")
        if not slash:
            return Target(self._upstream(LOCAL), first)
        if first not in self.known and first not in self.broken:
            there = ", ".join(sorted(self.known)) or "none"
            raise ConfigError(f"the model {name!r}: there is no upstream {first!r}; there are: {there}")
        return Target(self._upstream(first), rest)

    def names(self, names: Sequence[str], default: Sequence[str]) -> list[str]:
        """Those of a request, or the default ones; each once, in order. Without a default: this machine's first."""
        wanted = [part for name in names if (part := name.strip())]
        return list(dict.fromkeys(wanted or default or ("",)))

    def _upstream(self, name: str) -> Upstream:
        if name in self.broken:
            raise ConfigError(f"the upstream {name!r} cannot be used: {self.broken[name]}")
        if name not in self.known:
            raise ConfigError("this engine has no models of its own: its local provider is disabled")
        return self.known[name]


class KnownModels:
    """Where models are, for who looks at a flow. Without ``upstreams`` nothing is known of any.

    ``defaults`` are the names that are taken where none is given, by kind: ``language``, ``embed``.
    """

    def __init__(
        self,
        upstreams: Upstreams | None,
        defaults: Mapping[str, Sequence[str]],
        elsewhere: Callable[[str, str], str] = lambda name, kind: "",
    ) -> None:
        """``elsewhere(name, kind)``: the engine that answers for a model which this machine does not have."""
        self._upstreams = upstreams
        self._defaults = defaults
        self._elsewhere = elsewhere

    def fault(self, name: str) -> str:
        """What is wrong with a model's name; empty if nothing is."""
        if self._upstreams is None:
            return ""
        try:
            self._upstreams.target(name)
        except ConfigError as exc:
            return exc.message
        return ""

    def may_be_own(self, names: Sequence[str], kind: str) -> bool:
        """Whether a model of this engine, or of a paired one, may be among these."""
        asked = names or self._defaults.get(kind, ()) or ("",)
        return any("{" in name or "/" not in name or name.partition("/")[0] in (LOCAL, PEER) for name in asked)

    def places(self, names: Sequence[str], kind: str) -> list[str]:
        """Hosts that see what these models are asked; ``?`` for what a template names."""
        found: dict[str, None] = {}
        if self._upstreams is None:
            return []
        for name in names or self._defaults.get(kind, ()) or ("",):
            if "{{" in name or "{%" in name:
                found["?"] = None
            elif "/" not in name or name.partition("/")[0] == PEER:
                if place := self._elsewhere(name, kind):
                    found[place] = None
            elif not self.fault(name) and (place := self._upstreams.target(name).upstream.place):
                found[place] = None
        return list(found)


def read(providers: Mapping[str, Provider[Any]], name: str, raw: Any) -> Upstream:
    """An upstream as saved. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be an upstream's name; take a-z, 0-9, - and _ (40 at most)")
    if name in providers and providers[name].builtin:
        raise ConfigError(f"{name!r} is built in; name the upstream otherwise")
    try:
        entry = msgspec.convert(raw, Entry)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{name}: {exc}") from None
    kind = providers.get(entry.provider)
    if kind is None or kind.builtin:
        usable = ", ".join(sorted(each for each, provider in providers.items() if not provider.builtin))
        raise ConfigError(f"{name}: there is no provider {entry.provider!r}; there are: {usable}")
    limits = Limits(**{field: getattr(entry, field) for field in Limits.__struct_fields__})
    return _made(name, kind, entry.config, limits)


def _made(name: str, kind: Provider[Any], raw: Mapping[str, Any], limits: Limits) -> Upstream:
    config = decode(kind.Config, raw)
    kind.check(config)
    return Upstream(name=name, kind=kind, config=config, place=kind.place(config), limits=limits)
