"""Reads a file: as text, lines, JSON, CSV or bytes.

Paths are relative to the engine's `files` folder; other folders need the owner's leave. CSV gives a list of
objects named after the header, or a list of lists without one. Bytes become a reference to a stored blob.

    {"path": "inbox/{{ payload.name }}.csv", "format": "csv", "missing": "null"}
"""

from __future__ import annotations

import csv
import errno
import io
import mimetypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.contracts import Config, ConfigError, Context, Node, NodeError

Format = Literal["text", "lines", "json", "csv", "bytes"]
#: Trying again soon cannot help with these.
_LASTING = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class FileReadConfig(Config, frozen=True):
    path: Annotated[str, Meta(title="Path", description="Relative to the files folder.", min_length=1)]
    format: Annotated[Format, Meta(title="Read as")] = "text"
    encoding: Annotated[str, Meta(title="Encoding", description="Of the text; utf-8, latin-1 …")] = "utf-8"
    delimiter: Annotated[Literal[",", ";", "|", "tab"], Meta(title="CSV: columns are parted by")] = ","
    header: Annotated[bool, Meta(title="CSV: the first row names the columns")] = True
    missing: Annotated[
        Literal["error", "null"], Meta(title="No such file", description="Fail, or go on with null.")
    ] = "error"
    max_size: Annotated[int, Meta(title="Largest size in bytes", ge=1, le=1_000_000_000)] = 10_000_000


class FileRead(Node[FileReadConfig]):
    Config = FileReadConfig
    title = "Read a file"
    category = "files"
    icon = "file-text"

    def run(self, ctx: Context, config: FileReadConfig, payload: Any) -> Any:
        path = ctx.files.resolve(config.path)
        try:
            data = _load(path, config)
        except FileNotFoundError:
            if config.missing == "null":
                return None
            raise NodeError(f"there is no file {config.path!r}", retryable=False) from None
        except OSError as exc:
            message = f"{config.path!r} cannot be read: {exc.strerror}"
            raise NodeError(message, retryable=exc.errno not in _LASTING) from exc
        if config.format == "bytes":
            return ctx.blobs.put(data, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        return _parse(_text(data, config), config)


def _load(path: Path, config: FileReadConfig) -> bytes:
    # Not blocking: opening a named pipe would otherwise wait for ever for somebody to write.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NodeError(f"{config.path!r} is not a file that can be read", retryable=False)
    with os.fdopen(handle, "rb") as file:
        data = file.read(config.max_size + 1)
    if len(data) > config.max_size:
        raise NodeError(f"{config.path!r} is larger than {config.max_size} bytes", retryable=False)
    return data


def _text(data: bytes, config: FileReadConfig) -> str:
    try:
        return data.decode(config.encoding).removeprefix("\ufeff")
    except LookupError:
        raise ConfigError(f"encoding: {config.encoding!r} is unknown") from None
    except UnicodeError as exc:
        raise NodeError(f"{config.path!r} is not {config.encoding} text: {exc}", retryable=False) from None


def _parse(text: str, config: FileReadConfig) -> Any:
    if config.format == "lines":
        return list(_lines(text))
    try:
        if config.format == "json":
            return msgspec.json.decode(text)
        if config.format == "csv":
            return list(_rows(text, config))
    except (msgspec.DecodeError, RecursionError, UnicodeError, csv.Error) as exc:
        raise NodeError(f"{config.path!r} is not {config.format.upper()}: {exc}", retryable=False) from None
    return text


def _lines(text: str) -> Iterator[str]:
    for line in io.StringIO(text, newline=None):
        yield line.rstrip("\n")


def _rows(text: str, config: FileReadConfig) -> Iterator[Any]:
    delimiter = "\t" if config.delimiter == "tab" else config.delimiter
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row)
    if not config.header:
        yield from rows
        return
    names = next(rows, [])
    for row in rows:
        # A row that is too long keeps its surplus, one that is too short gets empty texts.
        surplus = [f"column_{number + 1}" for number in range(len(names), len(row))]
        yield dict(zip([*names, *surplus], row + [""] * (len(names) - len(row)), strict=True))
