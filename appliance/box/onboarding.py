"""What ``flowork.toml`` may say, and what is wrong in it: rules only. The file's own comments explain it to people.

Every setting is looked at by itself: one that is wrong is told and left out, the others count. Secrets (the Wi-Fi
password, a pairing code) are wiped from the file once they are taken over; :func:`rewritten` is what remains of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.security.wallet import address_of_public_key, parse_address

#: More than anybody writes by hand.
LIMIT = 64 * 1024


class Settings(Struct, frozen=True, omit_defaults=True):
    """What has been taken over. An empty text, or False, is what the box does by itself."""

    hostname: str = ""
    timezone: str = ""
    owner: str = ""
    owner_key_file: bool = False
    console_locked: bool = False
    ssid: str = ""
    password: str = ""
    country: str = ""
    hidden: bool = False
    ssh_keys: tuple[str, ...] = ()
    pairing_code: str = ""
    appliance: tuple[str, ...] = ()

    @property
    def edge(self) -> bool:
        """Whether this is an edge box, which only serves another one."""
        return bool(self.pairing_code)


class Read(Struct, frozen=True):
    """What a file says: the settings that are right, and a line for each that is not."""

    settings: Settings
    problems: tuple[str, ...] = ()


class Wrong(Exception):
    """A value that cannot be used; the text says what it may be."""


def read(data: bytes, before: Settings | None = None) -> Read:
    """What the file says. A password or code that was wiped from it is the one taken over ``before``."""
    before = before or Settings()
    try:
        if len(data) > LIMIT:
            raise Wrong("the file is too large")
        # Editors of Windows may put a byte order mark at the beginning.
        given = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Read(before, ("the file is not text in UTF-8; nothing was taken over",))
    except (tomllib.TOMLDecodeError, Wrong) as exc:
        return Read(before, (f"{exc}; nothing was taken over",))
    found: dict[str, Any] = {}
    problems = []
    for name, value in _flat(given):
        known = _KNOWN.get(name)
        if known is None:
            problems.append(f"{name}: there is no such setting; is it written rightly?")
            continue
        try:
            found[known[0]] = known[1](value)
        except Wrong as exc:
            problems.append(f"{name}: {exc}")
    return _whole(found, problems, before)


def _whole(found: dict[str, Any], problems: list[str], before: Settings) -> Read:
    """What belongs together: a network and its password, an appliance and its code."""
    if "ssid" in found and "password" not in found and found["ssid"] == before.ssid:
        found["password"] = before.password
    if not found.get("ssid") and found.keys() & {"password", "country", "hidden"} and not _about(problems, "wifi.ssid"):
        problems.append("wifi.ssid: the network's name is missing")
        found.pop("password", None)
    if _about(problems, "wifi.ssid") or _about(problems, "wifi.password"):
        # Better the network that worked than an open one of the same name, or none.
        found |= {"ssid": before.ssid, "password": before.password}
    if "appliance" in found and "pairing_code" not in found:
        found["pairing_code"] = before.pairing_code
        if not before.pairing_code and not _about(problems, "agent.pairing_code"):
            problems.append("agent.pairing_code: it is missing; `flowork agent pair NAME` shows one")
    return Read(Settings(**found), tuple(problems))


def _about(problems: list[str], name: str) -> bool:
    return any(problem.startswith(f"{name}:") for problem in problems)


def rewritten(settings: Settings, when: str, problems: Iterable[str] = ()) -> bytes:
    """The file without its secrets, with Windows' ends of lines."""
    lines = [f"# Taken over {when}. Change a value and it is taken over at the next start."]
    lines += [f"# NOT taken over: {' '.join(problem.split())}" for problem in problems]
    lines.append("")
    top: dict[str, Any] = {
        "hostname": settings.hostname,
        "timezone": settings.timezone,
        "owner": settings.owner,
        "owner_key_file": settings.owner_key_file,
        "console_locked": settings.console_locked,
    }
    lines += [f"{name} = {_toml(value)}" for name, value in top.items() if value]
    if settings.ssid:
        lines += ["", "[wifi]", f"ssid = {_toml(settings.ssid)}"]
        lines += ["# The password was taken over and wiped from here; write a new one if it has changed."]
        lines += ['#password = ""'] if settings.password else []
        lines += [f"country = {_toml(settings.country)}"] if settings.country else []
        lines += ["hidden = true"] if settings.hidden else []
    if settings.ssh_keys:
        lines += ["", "[ssh]", f"keys = {_toml(list(settings.ssh_keys))}"]
    if settings.edge:
        lines += ["", "[agent]", "# The pairing code was taken over and wiped from here.", '#pairing_code = ""']
        lines += [f"appliance = {_toml(list(settings.appliance))}"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _toml(value: str | bool | list[str]) -> str:
    """A TOML value: basic strings have JSON's escapes, but for DEL, which JSON leaves as it is."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def wifi_conf(settings: Settings) -> str:
    """A configuration of wpa_supplicant for the network that is named."""
    lines = ["ctrl_interface=/run/wpa_supplicant"]
    if settings.country:
        lines.append(f"country={settings.country}")
    lines += ["network={", f"  ssid={settings.ssid.encode().hex()}"]
    if settings.hidden:
        lines.append("  scan_ssid=1")
    if not settings.password:
        lines.append("  key_mgmt=NONE")
    elif len(settings.password) == _PSK_DIGITS:
        lines += [f"  psk={settings.password}", "  key_mgmt=WPA-PSK"]
    else:
        # WPA2 and WPA3, whichever the access point has.
        lines += [f'  psk="{settings.password}"', "  key_mgmt=WPA-PSK WPA-PSK-SHA256 SAE", "  ieee80211w=1"]
    return "\n".join([*lines, "}", ""])


#: A key instead of a passphrase: 256 bits in hex (IEEE 802.11, J.4).
_PSK_DIGITS = 64


def _flat(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong('it is written in quotes: "…"')
    return value.strip()


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("it is true or false, without quotes")
    return value


def _hostname(value: Any) -> str:
    # RFC 1123: one label of a host name.
    text = _text(value).lower().removesuffix(".local")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise Wrong("a name has letters, digits and dashes, at most 63")
    return text


def _timezone(value: Any) -> str:
    text = _text(value)
    try:
        ZoneInfo(text)
    except (LookupError, ValueError, OSError):
        raise Wrong(f"there is no time zone {text!r}; names are like Europe/Berlin or UTC") from None
    return text


def _owner(value: Any) -> str:
    text = _text(value)
    digits = text.removeprefix("0x")
    try:
        if re.fullmatch(r"0[23][0-9a-fA-F]{64}|04[0-9a-fA-F]{128}", digits):
            return address_of_public_key(bytes.fromhex(digits))
        return parse_address(text)
    except FlowError as exc:
        raise Wrong(exc.message) from None


def _ssid(value: Any) -> str:
    # As it is: a network's name may begin or end with a space.
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 32:
        raise Wrong("a network's name has 1 to 32 bytes, in quotes")
    return value


def _password(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong('it is written in quotes: "…"')
    if value and not re.fullmatch(r"[ -~]{8,63}|[0-9a-fA-F]{64}", value):
        raise Wrong("a Wi-Fi password has 8 to 63 letters, digits and signs of ASCII")
    return value


def _country(value: Any) -> str:
    text = _text(value).upper()
    if not re.fullmatch(r"[A-Z]{2}", text):
        raise Wrong("a country is two letters, such as DE")
    return text


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Wrong('it is a list: ["…", "…"]')
    return tuple(each.strip() for each in value)


def _ssh_keys(value: Any) -> tuple[str, ...]:
    keys = _texts(value)
    for key in keys:
        if not re.fullmatch(r"(ssh-(ed25519|rsa)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/=]+( [^\n]*)?", key):
            raise Wrong("a key is one line of a .pub file: ssh-ed25519 AAAA… name")
    return keys


def _pairing_code(value: Any) -> str:
    text = _text(value).replace(" ", "-")
    if not re.fullmatch(r"\d{1,4}-?\d{3}-?\d{3}", text):
        raise Wrong("a pairing code is numbers with dashes, as `flowork agent pair NAME` shows it")
    return text


def _appliances(value: Any) -> tuple[str, ...]:
    found = _texts([value] if isinstance(value, str) else value)
    for each in found:
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", each):
            raise Wrong(f"{each!r} is not an address; write host or host:port")
    return found


#: A setting's name in the file, its name in :class:`Settings`, and how its value is read.
_KNOWN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "hostname": ("hostname", _hostname),
    "timezone": ("timezone", _timezone),
    "owner": ("owner", _owner),
    "owner_key_file": ("owner_key_file", _yes),
    "console_locked": ("console_locked", _yes),
    "wifi.ssid": ("ssid", _ssid),
    "wifi.password": ("password", _password),
    "wifi.country": ("country", _country),
    "wifi.hidden": ("hidden", _yes),
    "ssh.keys": ("ssh_keys", _ssh_keys),
    "agent.pairing_code": ("pairing_code", _pairing_code),
    "agent.appliance": ("appliance", _appliances),
}
