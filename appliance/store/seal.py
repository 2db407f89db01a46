"""Encryption of backups in the age format (https://age-encryption.org/v1): to public keys, or with a passphrase.

With a key the backup is an age file, which `age -d -i KEY` opens too. A passphrase protects a key that is made for
this one backup, since what it protects directly would have to fit into memory: the backup is then a tar file with
``key.age`` (`age -d` asks for the passphrase) and ``backup.tar.gz.age``. Everything is encrypted as it is written and
decrypted as it is read.

To prove a backup that is encrypted to somebody else's key, a second key is made, which opens it too and is forgotten.
"""

from __future__ import annotations

import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from msgspec import Struct

from appliance.store.errors import StoreError

KEY_PART, SEALED_PART = "key.age", "backup.tar.gz.age"
_AGE = b"age-encryption.org/v1"
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"
_BLOCK = 512
#: What it takes to open a backup.
Sealed = Literal["plain", "key", "passphrase"]
_KEY_LIMIT = 10_000
#: age refuses a passphrase that takes sixteen times as long to try as it measures that one should here. That measure is
#: short, and wrong while something else has the processor: it is taken again, after so many seconds.
_TOO_MUCH, _TRIES, _PAUSE = "Excessive work", 5, 0.5


class WrongKey(StoreError):
    """The backup does not open with what was given."""

    id = "wrong-key"
    retryable = False


class Lock(Struct, frozen=True):
    """What a backup is encrypted with: public keys (``age1…``, ``ssh-ed25519 …``), or a passphrase; else nothing."""

    recipients: tuple[str, ...] = ()
    passphrase: str = ""

    def __bool__(self) -> bool:
        return bool(self.recipients or self.passphrase)


class Keys(Struct, frozen=True):
    """What a backup is opened with: private keys (``AGE-SECRET-KEY-1…``, an OpenSSH key), or a passphrase."""

    identities: tuple[str, ...] = ()
    passphrase: str = ""


def new_key() -> tuple[str, str]:
    """A new key: private part, public part."""
    made = _age().x25519.Identity.generate()
    return str(made), str(made.to_public())


def check_lock(lock: Lock) -> None:
    """Raises ``StoreError`` for a public key that is none, or where the library is missing."""
    if lock:
        _age()
        for text in lock.recipients:
            _recipient(text)


@contextmanager
def sealed(path: Path, lock: Lock) -> Iterator[tuple[IO[bytes], Keys]]:
    """A file to write the backup into, and what opens it again while this process lives."""
    with path.open("wb") as out:
        if not lock:
            yield out, Keys()
            return
        # For this backup alone: what the passphrase protects, or what proves the backup and is then forgotten.
        private, public = new_key()
        recipients = [_recipient(text) for text in (*lock.recipients, public)]
        if lock.passphrase:
            protected = _age().passphrase.encrypt(private.encode(), lock.passphrase)
            with _tar_around(out, protected), _encrypting(out, recipients) as plain:
                yield plain, Keys(passphrase=lock.passphrase)
        else:
            with _encrypting(out, recipients) as plain:
                yield plain, Keys(identities=(private,))


@contextmanager
def opened(path: Path, keys: Keys, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[IO[bytes]]:
    """The archive in a backup, decrypted as it is read. Raises ``WrongKey``."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        source: IO[bytes] = cast("IO[bytes]", _Counted(file, on_bytes))
        kind, identities = _kind(file), keys.identities
        if kind == "plain":
            yield source
            return
        if kind == "passphrase":
            tar = stack.enter_context(tarfile.open(fileobj=source, mode="r|"))
            identities = (_unlock(path, tar, keys.passphrase),)
            inner = tar.next()
            found = tar.extractfile(inner) if inner is not None and inner.name == SEALED_PART else None
            if found is None:
                raise StoreError(f"{path} is not a whole Flowork backup: {SEALED_PART} is missing", retryable=False)
            source = found
        if not identities:
            raise WrongKey(f"{path} is encrypted to a key: give the private key with --key")
        yield stack.enter_context(_decrypting(path, source, [_identity(text) for text in identities]))


def is_sealed(path: Path) -> Sealed:
    """What it takes to open a backup."""
    with path.open("rb") as file:
        return _kind(file)


def _kind(file: IO[bytes]) -> Sealed:
    head = file.read(_BLOCK)
    file.seek(0)
    if head.startswith(_AGE):
        return "key"
    return "passphrase" if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC) else "plain"


def _age() -> Any:
    try:
        import pyrage
    except ImportError:
        raise StoreError(
            "encrypted backups need the package pyrage: pip install 'flowork[backup]'", retryable=False
        ) from None
    return pyrage


def _recipient(text: str) -> Any:
    age, text = _age(), text.strip()
    kind = age.ssh.Recipient if text.startswith("ssh-") else age.x25519.Recipient
    try:
        return kind.from_str(text)
    except age.RecipientError as exc:
        raise StoreError(
            f"{text[:60]!r} is no public key for a backup (age1… or ssh-…): {exc}", retryable=False
        ) from None


def _identity(text: str) -> Any:
    """A private key. What is wrong with it is said without it."""
    age = _age()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        if text.lstrip().startswith("-----BEGIN"):
            return age.ssh.Identity.from_buffer(text.encode())
        return age.x25519.Identity.from_str(lines[0].strip() if lines else "")
    except (age.IdentityError, ValueError):
        raise WrongKey(
            "the private key cannot be read; it begins with AGE-SECRET-KEY-1, or is an OpenSSH key"
        ) from None


def _unlock(path: Path, tar: tarfile.TarFile, passphrase: str) -> str:
    member = tar.next()
    part = tar.extractfile(member) if member is not None and member.name == KEY_PART else None
    if part is None:
        raise StoreError(f"{path} is not a whole Flowork backup: {KEY_PART} is missing", retryable=False)
    if not passphrase:
        raise WrongKey(f"{path} is encrypted with a passphrase, which is missing")
    age, protected = _age(), part.read(_KEY_LIMIT)
    for left in reversed(range(_TRIES)):
        try:
            return bytes(age.passphrase.decrypt(protected, passphrase)).decode()
        except age.DecryptError as exc:
            if _TOO_MUCH not in str(exc):
                raise WrongKey(f"the passphrase does not open {path}") from None
        if left:
            time.sleep(_PAUSE)
    raise StoreError(
        f"{path} was made by a machine that is much faster than this one is now: its passphrase would take too long. "
        "Try again when this one has less to do, or open the backup elsewhere: docs/operations.md says how"
    )


@contextmanager
def _tar_around(out: IO[bytes], protected: bytes) -> Iterator[None]:
    """``key.age``, then what is written meanwhile as ``backup.tar.gz.age``: its size is put in behind."""
    key = _header(KEY_PART, len(protected))
    out.write(key + protected + bytes(-len(protected) % _BLOCK))
    at = out.tell()
    out.write(bytes(_BLOCK))
    begin = out.tell()
    yield
    size = out.tell() - begin
    out.write(bytes(-size % _BLOCK + 2 * _BLOCK))
    out.seek(at)
    out.write(_header(SEALED_PART, size))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)  # one block whatever the size


@contextmanager
def _encrypting(out: IO[bytes], recipients: Sequence[Any]) -> Iterator[IO[bytes]]:
    def encrypt(source: IO[bytes]) -> None:
        _age().encrypt_io(source, out, recipients)

    with _pumped(encrypt, writing=True) as plain:
        yield plain


@contextmanager
def _decrypting(path: Path, source: IO[bytes], identities: Sequence[Any]) -> Iterator[IO[bytes]]:
    age = _age()

    def decrypt(sink: IO[bytes]) -> None:
        try:
            age.decrypt_io(source, sink, identities)
        except age.DecryptError as exc:
            raise WrongKey(f"{path} does not open with this key: {exc}") from None

    with _pumped(decrypt, writing=False) as plain:
        yield plain


@contextmanager
def _pumped(work: Callable[[IO[bytes]], None], *, writing: bool) -> Iterator[IO[bytes]]:
    """A pipe whose other end a thread works on. What goes wrong there is raised here."""
    read_end, write_end = os.pipe()
    theirs = os.fdopen(read_end, "rb") if writing else os.fdopen(write_end, "wb")
    ours = os.fdopen(write_end, "wb") if writing else os.fdopen(read_end, "rb")
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with theirs:
                work(theirs)
        except BrokenPipeError:
            pass  # nobody wants to read on
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run, name="seal", daemon=True)
    thread.start()
    try:
        with _quietly_closed(ours):
            yield ours
    except Exception as exc:
        thread.join()
        if failure:  # the cause; what was raised here is only what came of it
            raise failure[0] from exc
        raise
    thread.join()
    if failure:
        raise failure[0]


@contextmanager
def _quietly_closed(file: IO[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            file.close()
        except BrokenPipeError:
            pass  # the thread has ended with an error, which is raised instead


class _Counted:
    """Reads through, saying how much."""

    def __init__(self, file: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._on_bytes(len(block))
        return block
