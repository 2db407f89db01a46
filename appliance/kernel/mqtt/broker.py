"""A broker's address: its URL taken apart, its TLS context, and topics that MQTT allows."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from appliance import trust
from appliance.contracts import ConfigError

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_OPTIONS = ("ca", "cert", "key", "insecure")
_EXAMPLE = "write mqtt://user:password@host:1883 or mqtts://host:8883 (special characters percent-encoded)"


class Broker(Struct, frozen=True):
    """Where a broker is and who we are there.

    ``ca``, ``cert`` and ``key`` are PEM files; ``insecure`` takes any certificate.
    """

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    insecure: bool = False

    def __str__(self) -> str:
        """The address without login, fit for logs and the health page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse(url: str) -> Broker:
    """The broker of a URL. Raises ``ConfigError``, which never repeats the URL: it may hold a password."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise ConfigError(f"this is not a broker's address; {_EXAMPLE}") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError(f"this is not a broker's address; {_EXAMPLE}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = parts.scheme == "mqtts"
    for name in options:
        if name not in _OPTIONS or not tls:
            raise ConfigError(f"a broker's address has no option of that name; mqtts:// knows {_OPTIONS}")
    return Broker(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=tls,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        ca=options.get("ca", ""),
        cert=options.get("cert", ""),
        key=options.get("key", ""),
        insecure=options.get("insecure", "0") not in ("", "0", "false", "no"),
    )


def tls_context(broker: Broker) -> ssl.SSLContext | None:
    """What TLS needs, None for a plain broker. Raises ``ConfigError`` for a file that cannot be used."""
    if not broker.tls:
        return None
    try:
        context = trust.tls_context(broker.ca)
        if broker.cert:
            context.load_cert_chain(broker.cert, broker.key or None)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"a certificate file of {broker} cannot be used: {exc}") from None
    if broker.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_topic(topic: str) -> str:
    """A topic to publish to (OASIS 4.7). Raises ``ConfigError``."""
    if "+" in topic or "#" in topic:
        raise ConfigError(f"a message cannot be sent to the wildcard topic {topic!r}; name one topic")
    return _sound(topic)


def check_filters(topic: str | Sequence[str]) -> tuple[str, ...]:
    """The filters to subscribe to, without those that another one covers. Raises ``ConfigError``.

    A broker may deliver a message once for each filter that it matches, which would start several runs.
    """
    given = (topic,) if isinstance(topic, str) else tuple(dict.fromkeys(topic))
    if not given:
        raise ConfigError("no topic to subscribe to")
    for each in given:
        levels = _sound(each).split("/")
        whole = all(level in ("+", "#") or not re.search(r"[+#]", level) for level in levels)
        if not whole or "#" in levels[:-1]:
            raise ConfigError(f"{each!r} is no topic filter: + and # stand alone in a level, # only at the end")
    return tuple(each for each in given if not any(_covers(other, each) for other in given if other != each))


def _sound(topic: str) -> str:
    if not topic:
        raise ConfigError("the topic is empty")
    if "\0" in topic:
        raise ConfigError("a topic cannot hold a NUL character")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise ConfigError("a topic cannot hold half a surrogate pair") from None
    if size > 65535:
        raise ConfigError("a topic is at most 65,535 bytes long")
    return topic


def _covers(wide: str, narrow: str) -> bool:
    """Whether every topic that the filter ``narrow`` matches is matched by ``wide`` too."""
    if wide.startswith("$share/") or (narrow.startswith("$") and wide[0] in "+#"):
        return False
    inner = narrow.split("/")
    for index, level in enumerate(wide.split("/")):
        if level == "#":
            return True
        if index == len(inner) or inner[index] == "#" or level not in ("+", inner[index]):
            return False
    return len(inner) == index + 1


def matcher(filters: Sequence[str]) -> re.Pattern[str]:
    """Matches the topics that at least one filter matches (OASIS 4.7.1, 4.7.2; ``$share/group/filter`` too)."""
    plain = (each.split("/", 2)[2] if each.startswith("$share/") else each for each in filters)
    return re.compile("|".join(map(_pattern, plain)), re.DOTALL)


def _pattern(topic_filter: str) -> str:
    levels = topic_filter.split("/")
    tail = ""
    if levels[-1] == "#":
        levels.pop()
        tail = "(?:/.*)?" if levels else ".*"
    body = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels)
    guard = r"(?!\$)" if topic_filter[0] in "+#" else ""
    return f"(?:{guard}{body}{tail})\\Z"


def filters_matching(topic: str, most_levels: int = 8) -> list[str]:
    """Every filter that could have brought this topic; none for a topic of more levels than given.

    For ``a/b``: ``a/b``, ``a/+``, ``+/b``, ``+/+``, ``a/b/#``, ..., ``a/#``, ``+/#`` and ``#``.
    """
    levels = topic.split("/")
    if len(levels) > most_levels:
        return []
    found = ["#"]
    stems = [""]
    for level in levels:
        stems = [f"{stem}{each}/" for stem in stems for each in (level, "+")]
        found += [f"{stem}#" for stem in stems]
    return found + [stem[:-1] for stem in stems]
