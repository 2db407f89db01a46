"""A thorough look at the keys folder that changes nothing: what ``flowork doctor`` says of it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from appliance.contracts import FlowError
from appliance.security.files import explained, keys_folder
from appliance.security.keyfile import parse_key
from appliance.security.keyring import VAULT_KEY, read_keyring
from appliance.security.keys import ENGINE_KEY, read_engine
from appliance.security.owner import OWNER_FILE, OWNER_KEY, read_address


def check_keys(data: Path) -> list[str]:
    """What is wrong with the keys of the engine whose folder is ``data``; empty if nothing is.

    Unlike a start, which believes what it wrote, this computes whether addresses belong to their keys.
    """
    folder = keys_folder(data)
    if not folder.is_dir():
        return [f"{folder} is missing; run: flowork init"]
    problems = [problem for check in (_engine, _vault, _owner) if (problem := _said(check, data))]
    with explained(folder):
        problems += [
            f"{path} can be read by others; run: chmod go-rwx {path}"
            for path in (folder, *sorted(folder.iterdir()))
            if stat.S_IMODE(path.stat().st_mode) & 0o077
        ]
    return problems


def _said(check: Callable[[Path], str], data: Path) -> str:
    try:
        with explained(keys_folder(data)):
            return check(data)
    except FlowError as exc:
        return exc.message


def _engine(data: Path) -> str:
    path = keys_folder(data) / ENGINE_KEY
    if parse_key(path.read_bytes()).address == read_engine(data).address:
        return ""
    return f"{path} does not belong to engine.json beside it; restore both from one backup"


def _vault(data: Path) -> str:
    ring = read_keyring(data)
    if len(ring.keys) == 1:
        return ""
    return f"{VAULT_KEY} still holds old keys: a rotation was interrupted, or a secret cannot be opened; rotate again"


def _owner(data: Path) -> str:
    folder = keys_folder(data)
    address = read_address(folder)
    if address is None:
        return f"{folder / OWNER_FILE} is missing or damaged; run: flowork init"
    if not (folder / OWNER_KEY).exists() or parse_key((folder / OWNER_KEY).read_bytes()).address == address:
        return ""
    return f"{OWNER_KEY} and {OWNER_FILE} name different owners; run: flowork init"
