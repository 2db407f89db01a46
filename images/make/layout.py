"""Where the partitions of an image lie, as a script for sfdisk. Run by scripts/image; knows nothing of Flowork.

Sizes are MiB. Numbers are the same on every image: 1 boot (FAT), 2 slot A, 3 slot B, 4 data. A PC's disk has a GPT and,
for its BIOS, a partition 14 that holds the rest of the boot loader; a Raspberry Pi 3 starts only from an MBR. Every
identifier is made from a seed (what is built, and which version), so that the same input gives the same image.

    layout.py sfdisk amd64 SEED DATA_MIB     what sfdisk is to be told
    layout.py shell amd64 SEED DATA_MIB      the same as NAME=VALUE for the shell that builds
"""

from __future__ import annotations

import hashlib
import sys
import uuid
from dataclasses import dataclass

MIB = 1024 * 1024
SECTOR = 512

#: MiB. The boot partition holds two kernels with their initramfs, and a Pi's firmware.
BOOT, SLOT, DATA = 256, 1024, 256
#: MiB before the first partition: the tables, and the BIOS's loader on a PC.
HEAD = 4
#: MiB after the last one, for the second table of a GPT.
TAIL = 1

_NAMESPACE = uuid.UUID("8f6c1f0e-7a43-4c1c-9d0c-0f10a7ab0e5d")
#: Partition types: GPT's identifiers (UEFI 2.10, 5.3.3, and the Discoverable Partitions Specification), MBR's bytes.
_GPT = {
    "boot": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
}
_MBR = {"boot": "c", "linux": "83"}


@dataclass(frozen=True)
class Partition:
    """One partition: its number, its name, what it is for, and where it lies (MiB)."""

    number: int
    name: str
    kind: str
    start: int
    size: int


def identifier(seed: str, what: str) -> uuid.UUID:
    """A UUID that depends on nothing but its two arguments."""
    return uuid.uuid5(_NAMESPACE, f"{seed} {what}")


def volume_id(seed: str) -> str:
    """A FAT volume's id: eight hex digits."""
    return identifier(seed, "boot").hex[:8].upper()


def disk_id(seed: str) -> str:
    """An MBR's disk id: eight hex digits, not zero."""
    return f"{int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16) or 1:08x}"


def partitions(gpt: bool, data: int = DATA) -> list[Partition]:
    """All partitions in the order in which they lie on the disk."""
    laid, start = [], HEAD
    if gpt:
        laid.append(Partition(14, "bios", "bios", 1, HEAD - 1))
    for number, (name, kind, size) in enumerate(
        (("boot", "boot", BOOT), ("system-a", "linux", SLOT), ("system-b", "linux", SLOT), ("data", "linux", data)), 1
    ):
        laid.append(Partition(number, name, kind, start, size))
        start += size
    return laid


def disk_size(gpt: bool, data: int = DATA) -> int:
    """MiB of the whole image."""
    last = partitions(gpt, data)[-1]
    return last.start + last.size + (TAIL if gpt else 0)


def partuuid(gpt: bool, seed: str, part: Partition) -> str:
    """By what the kernel knows a partition (``root=PARTUUID=…``)."""
    return str(identifier(seed, part.name)) if gpt else f"{disk_id(seed)}-{part.number:02d}"


def sfdisk_script(gpt: bool, seed: str, data: int = DATA) -> str:
    """Standard input of ``sfdisk IMAGE``."""
    head = (
        ["label: gpt", f"label-id: {identifier(seed, 'disk')}", f"first-lba: {MIB // SECTOR}"]
        if gpt
        else ["label: dos", f"label-id: 0x{disk_id(seed)}"]
    )
    lines = []
    for part in partitions(gpt, data):
        line = f"{part.number} : start={part.start * MIB // SECTOR}, size={part.size * MIB // SECTOR}, "
        if gpt:
            line += f"type={_GPT[part.kind]}, uuid={partuuid(gpt, seed, part)}, name={part.name}"
        else:
            line += f"type={_MBR[part.kind]}" + (", bootable" if part.kind == "boot" else "")
        lines.append(line)
    return "\n".join([*head, "", *lines, ""])


def shell(gpt: bool, seed: str, data: int = DATA) -> str:
    """Starts and sizes in MiB, and identifiers, as assignments."""
    values = {"disk_size": str(disk_size(gpt, data)), "volume_id": volume_id(seed)}
    values["data_uuid"] = str(identifier(seed, "data file system"))
    for part in partitions(gpt, data):
        name = part.name.replace("-", "_")
        values |= {f"{name}_start": str(part.start), f"{name}_size": str(part.size)}
        values[f"{name}_partuuid"] = partuuid(gpt, seed, part)
    return "".join(f"{name}={value}\n" for name, value in values.items())


def main(arguments: list[str]) -> int:
    """The command line of the module's head."""
    try:
        verb, architecture, seed, data = arguments
        make = {"sfdisk": sfdisk_script, "shell": shell}[verb]
        gpt = {"amd64": True, "arm64": False}[architecture]
        sys.stdout.write(make(gpt, seed, int(data)))
    except (ValueError, KeyError):
        sys.stderr.write("usage: layout.py sfdisk|shell amd64|arm64 SEED DATA_MIB\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
