"""Writes a file: text, JSON, CSV or a blob.

`overwrite` replaces the file in one step, so that a reader or a power cut never meets half of it. `append`
adds to the end: JSON as one line, CSV rows in the order of the header that is there. `create` fails if the
file exists. Missing folders are made. Without `content` the payload is written. A picture, a sound or any other
reference to a blob is written by the format `blob`.

    {"path": "log/{{ now().date() }}.csv", "format": "csv", "mode": "append", "content": "{{ [payload] }}"}
    {"path": "doorbell.jpg", "format": "blob", "content": "{{ payload.picture }}"}
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from appliance.contracts import Config, ConfigError, Context, Effect, Node, NodeError

Mode = Literal["overwrite", "append", "create"]
#: Seconds that another writer may hold the file before the step fails (and is retried if it says so).
LOCK_PATIENCE = 5.0
_LOCK_PAUSE = 0.02
_LASTING = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EROFS}
#: Without hard links (FAT, some network file systems).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class FileWriteConfig(Config, frozen=True):
    path: Annotated[str, Meta(title="Path", description="Relative to the files folder.", min_length=1)]
    content: Annotated[Any, Meta(title="Content", description="Left out: the payload.")] = UNSET
    format: Annotated[Literal["text", "json", "csv", "blob"], Meta(title="Write as")] = "text"
    mode: Annotated[Mode, Meta(title="If the file exists", description="create: fail.")] = "overwrite"
    newline: Annotated[
        bool | None, Meta(title="Text: end with a line break", description="Left out: only when appending.")
    ] = None
    encoding: Annotated[str, Meta(title="Encoding", description="Of the text; utf-8, latin-1 …")] = "utf-8"
    delimiter: Annotated[Literal[",", ";", "|", "tab"], Meta(title="CSV: columns are parted by")] = ","
    header: Annotated[bool, Meta(title="CSV: the first row names the columns")] = True


class FileWrite(Node[FileWriteConfig]):
    Config = FileWriteConfig
    title = "Write a file"
    category = "files"
    icon = "file-plus"
    effect = Effect.ONCE

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect.IDEMPOTENT if config.get("mode", "overwrite") == "overwrite" else Effect.ONCE

    def run(self, ctx: Context, config: FileWriteConfig, payload: Any) -> Any:
        content = payload if config.content is UNSET else config.content
        path = ctx.files.resolve(config.path, write=True)
        try:
            _make_folder(path.parent)
            if config.mode == "append":
                size = _append(ctx, config, path, content)
            else:
                data = _encode(ctx, config, content)
                _place(path, data, new=config.mode == "create")
                size = len(data)
        except FileExistsError:
            raise NodeError(f"{config.path!r} exists already", retryable=False) from None
        except OSError as exc:
            message = f"{config.path!r} cannot be written: {exc.strerror}"
            raise NodeError(message, retryable=exc.errno not in _LASTING) from exc
        return {"path": config.path, "size": size}


# --- what is written --------------------------------------------------------------------------------


def _encode(ctx: Context, config: FileWriteConfig, content: Any, header: list[str] | None = None) -> bytes:
    """The bytes to write; ``header`` are the columns of the CSV file that they are added to."""
    if config.format == "blob":
        if not isinstance(content, Mapping):
            raise ConfigError("content: is not a reference to a blob")
        return ctx.blobs.get(content)
    if config.format == "json":
        text = _json(content, one_line=config.mode == "append")
    elif config.format == "csv":
        text = _csv(config, content, header)
    else:
        text = _text(config, content)
    try:
        return text.encode(config.encoding)
    except LookupError:
        raise ConfigError(f"encoding: {config.encoding!r} is unknown") from None
    except UnicodeError as exc:
        raise NodeError(f"the content cannot be written as {config.encoding}: {exc}", retryable=False) from None


def _text(config: FileWriteConfig, content: Any) -> str:
    if isinstance(content, bool) or not isinstance(content, str | int | float):
        wanted = "blob" if isinstance(content, Mapping) and "$blob" in content else "json"
        raise ConfigError(f"content: is not text; choose the format {wanted}")
    newline = config.mode == "append" if config.newline is None else config.newline
    text = str(content)
    return text + "\n" if newline and not text.endswith("\n") else text


def _json(content: Any, *, one_line: bool) -> str:
    data = msgspec.json.encode(content)
    return (data if one_line else msgspec.json.format(data, indent=2)).decode() + "\n"


def _csv(config: FileWriteConfig, content: Any, header: list[str] | None) -> str:
    rows = content if isinstance(content, list) else [content]
    output = io.StringIO()
    writer = csv.writer(output, delimiter=_delimiter(config), lineterminator="\n")
    if all(isinstance(row, dict) for row in rows):
        columns = header or list(dict.fromkeys(name for row in rows for name in row))
        if unknown := sorted({str(name) for row in rows for name in row} - set(columns)):
            raise NodeError(f"{config.path!r} has no column {', '.join(unknown)}", retryable=False)
        if columns and config.header and header is None:
            writer.writerow(columns)
        rows = [[row.get(name) for name in columns] for row in rows]
    elif not all(isinstance(row, list) for row in rows):
        raise ConfigError("content: CSV needs a list of objects or a list of lists")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return output.getvalue()


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list | bool) else value


def _delimiter(config: FileWriteConfig) -> str:
    return "\t" if config.delimiter == "tab" else config.delimiter


# --- how it gets on disk ----------------------------------------------------------------------------


def _place(path: Path, data: bytes, *, new: bool) -> None:
    """Whole or not at all: a temporary file beside it, synced, then renamed (``new``: linked)."""
    if new and path.exists():
        raise FileExistsError
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if not new:
                _keep_mode(path, file)
            os.fsync(file.fileno())
        if new:
            _name_new(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _keep_mode(path: Path, file: IO[bytes]) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)


def _name_new(temporary: Path, path: Path) -> None:
    """Unlike a rename, a link fails when the name is taken."""
    try:
        path.hardlink_to(temporary)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        path.touch(exist_ok=False)
        temporary.replace(path)


def _append(ctx: Context, config: FileWriteConfig, path: Path, content: Any) -> int:
    # Unbuffered: a buffer would be written once more on closing, behind the truncation.
    with path.open("a+b", buffering=0) as file, _locked(ctx, file):
        before = file.seek(0, os.SEEK_END)
        data = _encode(ctx, config, content, _header(config, file) if before else None)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            # Half a line (a full disk) would spoil the next one.
            os.ftruncate(file.fileno(), before)
            raise
        _sync(path.parent)
        return before + len(data)


def _header(config: FileWriteConfig, file: IO[bytes]) -> list[str] | None:
    if config.format != "csv" or not config.header:
        return None
    file.seek(0)
    try:
        first = file.readline().decode(config.encoding).removeprefix("\ufeff")
    except (LookupError, UnicodeError):
        raise NodeError(f"the header of {config.path!r} is not {config.encoding} text", retryable=False) from None
    return next(csv.reader([first], delimiter=_delimiter(config)), None)


@contextlib.contextmanager
def _locked(ctx: Context, file: IO[bytes]) -> Iterator[None]:
    """One appender at a time; closing the file frees it. Never waits for ever for a foreign process."""
    cancelled = threading.Event()
    ctx.on_cancel(cancelled.set)
    give_up = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if cancelled.wait(_LOCK_PAUSE) or time.monotonic() > give_up:
                raise NodeError("another process keeps the file locked") from None
    yield


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """A new name in a folder is on disk only when the folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
