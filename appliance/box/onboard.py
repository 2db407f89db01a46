"""The service that takes over ``flowork.toml`` at a box's start, and applies what it has taken over, as root.

``/etc`` is a layer of memory on an image, so all is written anew at every boot. What was taken over is kept on the data
partition (``/data/system/settings.json``, for root alone); a box whose card has lost its ``flowork.toml`` goes on as it
was.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.box.onboarding import Read, Settings, read, rewritten, wifi_conf
from appliance.box.place import Box
from appliance.box.voice import say

_OWNER, _AGENT = "flowork", "/var/lib/flowork-agent"
_FLOWORK = "/opt/flowork/current/bin/flowork"


class Kept(Struct, frozen=True):
    """What the data partition holds: the settings, and which file they were read from."""

    settings: Settings = Settings()
    digest: str = ""
    problems: tuple[str, ...] = ()
    #: What has been carried out and is not to be done again at the next boot.
    owner: str = ""
    key_file: bool = False
    code: str = ""


class Onboarding:
    """One start of a box; ``root`` is `/`, or a folder that stands for it in tests, so that nothing here is set."""

    def __init__(self, root: Path = Path("/"), now: str | None = None) -> None:
        self._root = root
        self._box = Box(root)
        self._now = now
        self._toml = self._box.boot / "flowork.toml"
        self._kept = root / "data/system/settings.json"
        self._real = root == Path("/")

    def run(self) -> int:
        """Read, apply, and only then wipe; the exit code."""
        kept = self._load()
        found, data = self._read(kept)
        settings, problems = found.settings, list(found.problems)
        new = Kept(settings, kept.digest, found.problems, kept.owner, kept.key_file, kept.code)
        self._apply(settings)
        try:
            new = self._pair(new) if settings.edge else self._owner(new)
        except OSError as exc:
            problems.append(f"{'agent.pairing_code' if settings.edge else 'owner'}: {exc}")
        # On disk before the file loses what it says.
        self._save(new)
        if data is not None:
            new = self._wipe(new, data)
            self._save(new)
        self._tell(problems)
        return 0

    # --- reading -------------------------------------------------------------------------------------

    def _load(self) -> Kept:
        try:
            return msgspec.json.decode(self._kept.read_bytes(), type=Kept)
        except FileNotFoundError:
            return Kept()
        except (OSError, msgspec.DecodeError) as exc:
            say(f"{self._kept}: {exc}; beginning afresh")
            return Kept()

    def _read(self, kept: Kept) -> tuple[Read, bytes | None]:
        """What the file says, and the file, if it has something new to say."""
        try:
            data = self._toml.read_bytes()
        except OSError:
            return Read(kept.settings, kept.problems), None
        if _digest(data) == kept.digest:
            return Read(kept.settings, kept.problems), None
        say("flowork.toml is taken over")
        return read(data, kept.settings), data

    def _save(self, kept: Kept) -> None:
        if self._real and not os.path.ismount("/data"):
            say("the data partition is not there: what flowork.toml says counts for this time only")
            return
        self._write("data/system/settings.json", msgspec.json.format(msgspec.json.encode(kept)) + b"\n", 0o600)

    # --- applying ------------------------------------------------------------------------------------

    def _apply(self, settings: Settings) -> None:
        if settings.hostname:
            self._write("etc/hostname", f"{settings.hostname}\n".encode())
            self._write("etc/hosts", _hosts(settings.hostname).encode())
            if self._real:
                socket.sethostname(settings.hostname)
        if settings.timezone:
            self._link("etc/localtime", f"/usr/share/zoneinfo/{settings.timezone}")
            self._write("etc/timezone", f"{settings.timezone}\n".encode())
        if settings.ssid:
            self._write("run/flowork/wifi.conf", wifi_conf(settings).encode(), 0o600)
        self._flag("edge", settings.edge)
        self._flag("console-locked", settings.console_locked)
        self._ssh(settings.ssh_keys)

    def _ssh(self, keys: Sequence[str]) -> None:
        folder = self._root / "data/system/ssh"
        if not keys:
            (folder / "authorized_keys").unlink(missing_ok=True)
            return
        host_key = folder / "ssh_host_ed25519_key"
        if self._real and not host_key.exists():
            self._call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
        self._write("data/system/ssh/authorized_keys", "".join(f"{key}\n" for key in keys).encode(), 0o644)

    def _owner(self, kept: Kept) -> Kept:
        """Who owns the engine: once for each change of the setting, so that what the panel does later stays."""
        settings = kept.settings
        if settings.owner and settings.owner != kept.owner:
            self._flowork("init", "--quiet")
            self._flowork("key", "wallet", settings.owner, "--yes")
            kept = msgspec.structs.replace(kept, owner=settings.owner)
        elif settings.owner_key_file and not kept.key_file and not settings.owner:
            self._flowork("init", "--quiet")
            key = self._flowork("key", "show", "--json")
            with self._box.boot_writable():
                _overwrite(self._box.boot / "flowork-owner-key.txt", _key_text(key))
            kept = msgspec.structs.replace(kept, key_file=True)
        return kept

    def _pair(self, kept: Kept) -> Kept:
        """The agent's own settings, in its own folder."""
        settings = kept.settings
        if settings.pairing_code == kept.code:
            return kept
        lines = [f'code = "{settings.pairing_code}"']
        if settings.appliance:
            lines.append(f"appliance = {msgspec.json.encode(list(settings.appliance)).decode()}")
        self._write(f"{_AGENT[1:]}/flowork-agent.toml", "".join(f"{line}\n" for line in lines).encode(), 0o600, _OWNER)
        return msgspec.structs.replace(kept, code=settings.pairing_code)

    # --- telling -------------------------------------------------------------------------------------

    def _wipe(self, kept: Kept, data: bytes) -> Kept:
        """Write the file anew without its secrets, over what was there. A file with problems keeps its other lines."""
        when = self._now or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        secrets = [text for text in (kept.settings.password, kept.settings.pairing_code) if text]
        holds = any(text.encode() in data for text in secrets)
        if not holds and kept.problems:
            # Left as it is, to be mended.
            return msgspec.structs.replace(kept, digest=_digest(data))
        text = rewritten(kept.settings, when, kept.problems)
        with self._box.boot_writable():
            _overwrite(self._toml, text)
        return msgspec.structs.replace(kept, digest=_digest(text))

    def _tell(self, problems: Sequence[str]) -> None:
        """What is wrong: in the log, on the screen, and beside the file."""
        beside = self._box.boot / "flowork-problems.txt"
        text = "".join(f"{problem}\n" for problem in problems)
        for problem in problems:
            say(f"flowork.toml: {problem}")
        self._write("run/flowork/problems", text.encode(), 0o644)
        wanted = text.replace("\n", "\r\n").encode()
        try:
            old = beside.read_bytes() if beside.exists() else b""
            if old != wanted:
                with self._box.boot_writable():
                    if wanted:
                        _overwrite(beside, wanted)
                    else:
                        beside.unlink()
        except OSError as exc:
            say(f"{beside}: {exc.strerror}")

    # --- hands ---------------------------------------------------------------------------------------

    def _write(self, name: str, data: bytes, mode: int = 0o644, owner: str = "") -> None:
        path = self._root / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            if owner and self._real:
                import pwd

                entry = pwd.getpwnam(owner)
                os.fchown(handle, entry.pw_uid, entry.pw_gid)
            file.write(data)
            file.flush()
            os.fsync(handle)
        beside.replace(path)

    def _link(self, name: str, target: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(path)

    def _flag(self, name: str, on: bool) -> None:
        if on:
            self._write(f"run/flowork/{name}", b"")
        else:
            (self._root / "run/flowork" / name).unlink(missing_ok=True)

    def _flowork(self, *arguments: str) -> str:
        return self._call("runuser", "-u", _OWNER, "--", _FLOWORK, *arguments)

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"FLOWORK_DATA": "/var/lib/flowork"}
        )
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hosts(name: str) -> str:
    return f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def _key_text(answer: str) -> bytes:
    key = msgspec.json.decode(answer)
    lines = [
        "The owner's key of this box. Who has it owns the box: keep it elsewhere, and delete this file.",
        "",
        f"address      {key['address']}",
        f"private key  {key['private_key']}",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _overwrite(path: Path, data: bytes) -> None:
    """The file's new content, in the place of the old one, which is overwritten first."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "r+b") as file:
        length = os.fstat(handle).st_size
        file.write(b"\0" * length)
        file.flush()
        os.fsync(handle)
        file.seek(0)
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(handle)


if __name__ == "__main__":
    sys.exit(Onboarding().run())
