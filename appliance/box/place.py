"""The box's disk as ``flowork-slot`` sees it: the boot loader's file, the boot partition, the two slots' partitions."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from appliance.box import slots
from appliance.box.slots import Choice, Name, SlotError

#: The first four bytes of a squashfs, and where its length stands (superblock, bytes_used: 64 bit, little endian).
_MAGIC = b"hsqs"
_LENGTH_AT = 40
_CHUNK = 1 << 20
#: Bytes at the beginning of a slot that are written last, so that half a system is never taken for a whole one.
_FIRST = 4096
#: The partitions' numbers on every image (images/make/layout.py).
_NUMBERS: dict[Name, int] = {"a": 2, "b": 3}


class BoxError(Exception):
    """This machine's disk is not as an image makes it, or something on it cannot be done; the text says what."""


class Box:
    """One box; ``root`` is `/`, or a folder that stands for it in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.boot = root / "boot/flowork"
        self._loader = self.boot / "flowork/slots.env"

    # --- what runs -----------------------------------------------------------------------------------

    def _started_with(self) -> dict[str, str]:
        words = (self.root / "proc/cmdline").read_text().split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def running(self) -> Name:
        """The slot that runs. Raises ``BoxError`` on a machine that was not started from an image."""
        try:
            return slots.slot_name(self._started_with()["flowork.slot"])
        except (KeyError, OSError, SlotError):
            raise BoxError("this machine was not started from a Flowork image: it has no slots") from None

    def started_as_trial(self) -> bool:
        """Whether this boot began as a try."""
        return self._started_with().get("flowork.trial") == "1"

    def trial(self) -> bool:
        """Whether this boot is a try, and the slot has not been called good meanwhile."""
        if not self.started_as_trial():
            return False
        choice = self.choice()
        return not (choice.good == self.running() and choice.trying is None)

    def port(self) -> int:
        """Where the gateway listens."""
        for path in sorted(self.root.glob("etc/systemd/system/flowork-gateway.socket.d/*.conf")):
            for line in path.read_text().splitlines():
                if line.removeprefix("ListenStream=").isdigit():
                    return int(line.removeprefix("ListenStream="))
        return 5000

    # --- the boot loader's file ----------------------------------------------------------------------

    def choice(self) -> Choice:
        """What the boot loader has been told."""
        try:
            return slots.read(self._loader.read_bytes())
        except OSError as exc:
            raise BoxError(f"the boot partition cannot be read: {exc.strerror}") from None

    def tell(self, choice: Choice) -> None:
        """Tell the boot loader. The file keeps its place on the disk, where the loader itself writes to it."""
        with self.boot_writable():
            handle = os.open(self._loader, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(handle, slots.write(choice), 0)
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextmanager
    def boot_writable(self) -> Iterator[None]:
        """The boot partition, which is mounted read-only, for the time of a change."""
        if self.root != Path("/"):
            yield
            return
        _run("mount", "-o", "remount,rw", str(self.boot))
        try:
            yield
        finally:
            os.sync()
            subprocess.run(["mount", "-o", "remount,ro", str(self.boot)], check=False)

    # --- the slots -----------------------------------------------------------------------------------

    def image_of(self, name: Name) -> dict[str, str] | None:
        """What a slot holds: version and arch; None if no whole system was written to it."""
        try:
            text = (self.boot / "flowork" / name / "image").read_text()
        except OSError:
            return None
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return values if values.get("version") else None

    def partition(self, name: Name) -> Path:
        """The device of a slot, beside the one that the running system was mounted from."""
        if self.root != Path("/"):
            return self.root / f"dev/slot-{name}"
        device = Path(_output("findmnt", "-n", "-o", "SOURCE", "/run/flowork/system")).resolve()
        here = Path("/sys/class/block") / device.name
        number = int((here / "partition").read_text())
        stem = device.name.removesuffix(str(number))
        found = device.with_name(f"{stem}{_NUMBERS[name]}")
        if number != _NUMBERS[self.running()] or not found.is_block_device():
            raise BoxError(f"the disk of {device} is not laid out as an image's")
        return found

    def write_slot(self, name: Name, source: BinaryIO, sha256: str | None) -> str:
        """Write a system into a slot, read it back, and put its kernel on the boot partition; the system's version.

        Until that is done the slot counts as empty. Raises ``SlotError`` for a file that is no system for this box.
        """
        folder, device = self.boot / "flowork" / name, self.partition(name)
        with self.boot_writable():
            (folder / "image").unlink(missing_ok=True)
        with device.open("r+b", buffering=0) as target:
            length, digest = _copy(source, target, _room(target))
            if sha256 and digest != sha256.lower():
                raise SlotError(f"the file is not the one that was meant: its SHA-256 is {digest}")
            if _digest(target, length) != digest:
                raise BoxError(f"{device} does not give back what was written to it: the card is failing")
        with self.opened(device) as system:
            image = _read_image(system / "etc/flowork-image")
            ours = _read_image(self.root / "etc/flowork-image")
            for key, what in (("arch", "another kind of machine"), ("layout", "another layout of the disk")):
                if image.get(key) != ours.get(key):
                    raise SlotError(f"the file is for {what} ({image.get(key)}, not {ours.get(key)})")
            with self.boot_writable():
                self._take_kernel(system / "boot", folder)
                _write_synced(folder / "image", f"version={image['version']}\narch={image['arch']}\n".encode())
        return image["version"]

    @contextmanager
    def opened(self, device: Path) -> Iterator[Path]:
        """A slot's files, to look at."""
        if self.root != Path("/"):
            yield device.with_name(f"{device.name}.files")
            return
        where = Path(tempfile.mkdtemp(prefix="flowork-slot."))
        try:
            _run("mount", "-t", "squashfs", "-o", "ro", str(device), str(where))
            try:
                yield where
            finally:
                _run("umount", str(where))
        finally:
            where.rmdir()

    def _take_kernel(self, source: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
            found = sorted(source.glob(pattern))
            if len(found) != 1:
                raise SlotError(f"the file holds no system: {pattern} is there {len(found)} times")
            with found[0].open("rb") as file, (folder / name).open("wb") as copy:
                shutil.copyfileobj(file, copy, _CHUNK)
                copy.flush()
                os.fsync(copy.fileno())


def _room(target: BinaryIO) -> int:
    return target.seek(0, os.SEEK_END)


def _copy(source: BinaryIO, target: BinaryIO, room: int) -> tuple[int, str]:
    """Length and SHA-256 of what was written; its first bytes are written last."""
    first = _exactly(source, _FIRST)
    if not first.startswith(_MAGIC):
        raise SlotError("the file is no system for a slot (a .slot file is)")
    (used,) = struct.unpack_from("<Q", first, _LENGTH_AT)
    if used > room:
        raise SlotError(f"the system has {used >> 20} MiB, more than the slot's {room >> 20}")
    hashed, length = hashlib.sha256(first), len(first)
    target.seek(0)
    target.write(bytes(_FIRST))
    os.fsync(target.fileno())
    while chunk := source.read(_CHUNK):
        if length + len(chunk) > room:
            raise SlotError("the file is larger than a slot")
        hashed.update(chunk)
        _all(target, chunk)
        length += len(chunk)
    if length < used:
        raise SlotError(f"the file was cut off: {length} bytes of {used}")
    os.fsync(target.fileno())
    target.seek(0)
    _all(target, first)
    os.fsync(target.fileno())
    return length, hashed.hexdigest()


def _digest(target: BinaryIO, length: int) -> str:
    """SHA-256 of what is really there: what the memory still holds of it is forgotten first."""
    os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    target.seek(0)
    hashed, left = hashlib.sha256(), length
    while left and (chunk := target.read(min(_CHUNK, left))):
        hashed.update(chunk)
        left -= len(chunk)
    return hashed.hexdigest()


def _exactly(source: BinaryIO, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (chunk := source.read(size - len(parts))):
        parts += chunk
    return bytes(parts)


def _all(target: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _read_image(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        raise SlotError("the file holds no Flowork system") from None
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BoxError(f"{' '.join(command)}: {done.stderr.strip()}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
