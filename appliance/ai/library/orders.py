"""What is to be fetched under which name: small, for it is in the kernel's memory too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.ai.host import files
from appliance.ai.library.catalogue import ModelPart


class Order(Struct, frozen=True, kw_only=True):
    """What is to be fetched under which name. ``bytes`` is 0 where the source did not say, ``free`` are those that the
    disk has left now; ``checksum_known`` says whether what comes can be held against a checksum; ``note`` is what
    whoever agrees to it should know, in words.
    """

    name: str
    parts: tuple[ModelPart, ...]
    onnx: bool = False
    manifest: dict[str, Any] = {}
    title: str = ""
    quantization: str = ""
    bytes: int = 0
    free: int = 0
    licence: str = ""
    licence_url: str = ""
    source: str = ""
    note: str = ""

    @property
    def checksum_known(self) -> bool:
        return all(part.sha256 for part in self.parts)


def folder_of(data: Path) -> Path:
    """Where what is under way lies."""
    return data / files.FOLDER / "pulls"
