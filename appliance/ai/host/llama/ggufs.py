"""What stands at the beginning of a GGUF file, read before llama.cpp gets it: is it one, is it whole, what it needs.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. Files
come from strangers: every length is held against the file's size before it is believed. A model that is split over
several files (``split.no`` and ``split.count``) is looked at as a whole.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from appliance.ai.host import files
from appliance.contracts import ConfigError

_MAGIC = b"GGUF"
#: Sizes of the fixed types: u8, i8, u16, i16, u32, i32, f32, bool, and (10 to 12) u64, i64, f64.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
#: Bytes and values of one block of each tensor type of ggml.
_BLOCKS = {
    0: (4, 1),
    1: (2, 1),
    2: (18, 32),
    3: (20, 32),
    6: (22, 32),
    7: (24, 32),
    8: (34, 32),
    9: (36, 32),
    10: (84, 256),
    11: (110, 256),
    12: (144, 256),
    13: (176, 256),
    14: (210, 256),
    15: (292, 256),
    16: (66, 256),
    17: (74, 256),
    18: (98, 256),
    19: (50, 256),
    20: (18, 32),
    21: (110, 256),
    22: (82, 256),
    23: (136, 256),
    24: (1, 1),
    25: (2, 1),
    26: (4, 1),
    27: (8, 1),
    28: (8, 1),
    29: (56, 256),
    30: (2, 1),
    34: (54, 256),
    35: (66, 256),
    39: (17, 32),
}


class Facts(Struct, frozen=True, kw_only=True):
    """What a GGUF file says of itself. ``meta`` has single values and short lists only; sizes are in bytes.

    ``cell`` is what one token of context takes in memory (half-precision keys and values), ``identity`` names the
    content: 16 hexadecimal digits of the file's head, size and some samples.
    """

    architecture: str
    name: str
    context: int
    vocabulary: int
    size: int
    cell: int
    identity: str
    meta: dict[str, Any]

    @property
    def pooling(self) -> int:
        """How vectors are pooled (1 mean, 2 first, 3 last token), 0 where the model makes none."""
        return int(self.meta.get(f"{self.architecture}.pooling_type", 0))

    @property
    def is_adapter(self) -> bool:
        """Whether it is a LoRA adapter, which is no model by itself."""
        return self.meta.get("general.type") == "adapter"


class Part(NamedTuple):
    """Which of a split model's files one is: ``number`` of ``parts``, from 1; 1 of 1 is a whole model."""

    number: int
    parts: int


def read(path: Path) -> Facts:
    """Look at a model by its (first) file. ``ConfigError`` if one of its files is not there, no GGUF, or cut off."""
    facts, part = _read(path)
    if part.parts == 1:
        return facts
    if part.number > 1:
        raise ConfigError(f"{path.name} is part {part.number} of {part.parts} of a model: give its first file")
    together = files.parts(path)
    if len(together) != part.parts:
        raise ConfigError(
            f"{path.name} is the first of {part.parts} files of a model; its name must end in "
            f"-00001-of-{part.parts:05}.gguf, and those of the others likewise"
        )
    identities, size = [facts.identity], facts.size
    for number, other in enumerate(together[1:], start=2):
        found, its = _read(other)
        if its != (number, part.parts):
            raise ConfigError(f"{other.name} is part {its.number} of {its.parts}, not {number} of {part.parts}")
        identities.append(found.identity)
        size += found.size
    identity = hashlib.blake2b(" ".join(identities).encode(), digest_size=8).hexdigest()
    return msgspec.structs.replace(facts, size=size, identity=identity)


def part_of(path: Path) -> Part:
    """Look at one file alone. ``ConfigError`` if it is not there, no GGUF, or cut off."""
    return _read(path)[1]


def _read(path: Path) -> tuple[Facts, Part]:
    try:
        if not path.stat().st_size:
            raise ConfigError(f"model file {path.name} is empty. Get it again")  # and cannot be mapped
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            return _Reader(content, path.name).facts()
    except FileNotFoundError:
        raise ConfigError(f"there is no model file {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model file {path.name} cannot be read: {error}") from error


class _Reader:
    def __init__(self, content: mmap.mmap, name: str) -> None:
        self._content = content
        self._name = name
        self._at = 0

    def facts(self) -> tuple[Facts, Part]:
        if self._content[:4] != _MAGIC:
            raise ConfigError(f"{self._name} is no GGUF file: it begins with {bytes(self._content[:4])!r}")
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):
            raise ConfigError(f"{self._name} is a GGUF file of version {version}; versions 2 and 3 can be read")
        tensors, values = self._count("Q", 24), self._count("Q", 13)
        meta = {self._string(): self._value(self._number("I"), 0) for _ in range(values)}
        end = self._tensors(tensors, int(meta.get("general.alignment", 32)))
        if end > len(self._content):
            raise ConfigError(
                f"model file {self._name} is cut off: it has {len(self._content)} bytes and should have {end}. "
                "Get it again"
            )
        part = Part(_whole(meta.get("split.no")) + 1, max(1, _whole(meta.get("split.count"))))
        architecture = str(meta.get("general.architecture", ""))
        if not architecture and part.number == 1:  # the other parts have tensors only
            raise ConfigError(f"model file {self._name} does not say which architecture it has")
        facts = Facts(
            architecture=architecture,
            name=str(meta.get("general.name", "")),
            context=_whole(meta.get(f"{architecture}.context_length")),
            vocabulary=_whole(meta.get("tokenizer.ggml.tokens")),
            size=len(self._content),
            cell=_cell(architecture, meta),
            identity=self._identity(),
            meta=meta,
        )
        return facts, part

    def _tensors(self, count: int, alignment: int) -> int:
        """Read where the tensors lie; the offset at which the last one ends."""
        ends = [0]
        for _ in range(count):
            name = self._string()
            elements = 1
            dimensions = self._number("I")
            if dimensions > 4:
                raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
            for _ in range(dimensions):
                elements *= self._number("Q")
            kind, offset = self._number("I"), self._number("Q")
            if kind not in _BLOCKS:
                raise ConfigError(f"model file {self._name} has tensors of type {kind}, which is not known here")
            size, values = _BLOCKS[kind]
            ends.append(offset + elements // values * size)
        if not 0 < alignment <= 1 << 20:
            raise self._damaged(f"its alignment is {alignment}")
        return (self._at + alignment - 1) // alignment * alignment + max(ends)

    def _value(self, kind: int, depth: int) -> Any:
        """One value; of a list longer than 64 only the length, as an int."""
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _FORMATS:
            raise self._damaged(f"a value has type {kind}")
        return self._number(_FORMATS[kind])

    def _array(self, depth: int) -> Any:
        if depth >= _DEEPEST:
            raise self._damaged("lists lie too deep in one another")
        kind = self._number("I")
        if kind in _FORMATS:
            size = struct.calcsize(_FORMATS[kind])
            count = self._count("Q", size)
            if count > 64:
                self._at += count * size
                return count
        else:
            count = self._count("Q", 8)
            if kind == _STRING and count > 64:
                self._skip_strings(count)
                return count
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _number(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self._at + size > len(self._content):
            raise self._damaged("it ends in the middle of its head")
        (found,) = struct.unpack_from("<" + form, self._content, self._at)
        self._at += size
        return found

    def _count(self, form: str, least: int) -> int:
        """How many things follow that take ``least`` bytes each."""
        count = int(self._number(form))
        if count * least > len(self._content) - self._at:
            raise self._damaged("it ends in the middle of its head")
        return count

    def _string(self) -> str:
        length = self._count("Q", 1)
        data = self._content[self._at : self._at + length]
        self._at += length
        return data.decode("utf-8", "replace")

    def _skip_strings(self, count: int) -> None:
        """A vocabulary has several 100,000 strings: so this is written for speed."""
        content, at, end = self._content, self._at, len(self._content) - 8
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > end:
                raise self._damaged("it ends in the middle of its head")
            at += 8 + length_at(content, at)[0]
        self._at = at

    def _identity(self) -> str:
        """Of the head and 64 samples of 4 kB, so that a large file is not read as a whole."""
        mark = hashlib.blake2b(str(len(self._content)).encode(), digest_size=8)
        mark.update(self._content[: min(self._at, 1 << 20)])
        for number in range(64):
            place = (len(self._content) - 4096) * number // 63
            mark.update(self._content[max(place, 0) : max(place, 0) + 4096])
        return mark.hexdigest()

    def _damaged(self, why: str) -> ConfigError:
        return ConfigError(f"model file {self._name} is damaged or cut off: {why}. Get it again")


def _whole(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, int) else 0


def _cell(architecture: str, meta: dict[str, Any]) -> int:
    """Bytes of one token's keys and values over all layers, in half precision."""

    def per_layer(key: str, default: int) -> list[int]:
        value = meta.get(f"{architecture}.{key}", default)
        if isinstance(value, list):
            return [_whole(item) for item in value]
        return [_whole(value)] * layers

    layers = min(_whole(meta.get(f"{architecture}.block_count")), 1024)
    width = _whole(meta.get(f"{architecture}.embedding_length"))
    heads = per_layer("attention.head_count", 1)
    shared = per_layer("attention.head_count_kv", heads[0] if heads else 1)
    head = width // max([*heads, 1])
    keys = _whole(meta.get(f"{architecture}.attention.key_length")) or head
    values = _whole(meta.get(f"{architecture}.attention.value_length")) or head
    return sum(count * (keys + values) * 2 for count in shared[:layers])
