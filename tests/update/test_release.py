"""Release files: only what a trusted key has signed, byte for byte, comes out of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.security import signatures
from appliance.update.release import BadRelease, Manifest, Release, pack

KEY, OTHER = signatures.new_key(), signatures.new_key()
PUBLIC = signatures.public_of(KEY)
ABOUT: dict[str, Any] = {
    "kind": "wheels",
    "version": "0.2.0",
    "machine": "x86_64",
    "python": "3.11",
    "schema": 1,
    "made": 1_800_000_000,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    sources = {}
    for name, size in (("a.whl", 3_000_000), ("b.whl", 10)):
        (folder / name).write_bytes(name[:1].encode() * size)
        sources[f"wheels/{name}"] = folder / name
    pack(sources, folder / "r.flowork", KEY, **ABOUT)
    return folder / "r.flowork"


def opened(data: bytes, target: Path, trusted: str = PUBLIC) -> Manifest:
    release = Release(io.BytesIO(data), [trusted])
    manifest = release.open()
    target.mkdir()
    release.unpack(target)
    return manifest


def test_what_was_packed_comes_out(file: Path, tmp_path: Path) -> None:
    manifest = opened(file.read_bytes(), tmp_path / "out")
    assert (manifest.version, sorted(manifest.files)) == ("0.2.0", ["wheels/a.whl", "wheels/b.whl"])
    assert (tmp_path / "out/wheels/a.whl").read_bytes() == b"a" * 3_000_000


def test_a_long_name_is_kept_whole(file: Path, tmp_path: Path) -> None:
    name = f"{'long' * 40}-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    pack({name: file.parent / "b.whl"}, tmp_path / "r", KEY, **ABOUT)
    opened((tmp_path / "r").read_bytes(), tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"b" * 10


def test_the_same_input_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    sources = {f"wheels/{name}": file.parent / name for name in ("b.whl", "a.whl")}
    pack(sources, tmp_path / "again", KEY, **ABOUT)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_release_of_another_key_is_refused_before_anything_is_unpacked(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRelease, match="not signed by a key"):
        opened(file.read_bytes(), tmp_path / "out", signatures.public_of(OTHER))
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadRelease, match="no key is trusted"):
        Release(io.BytesIO(file.read_bytes()), []).open()


@settings(deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_wherever_it_is(file: Path, place: float, bit: int) -> None:
    data = bytearray(file.read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    try:
        release = Release(io.BytesIO(bytes(data)), [PUBLIC])
        release.open()
        _check(release)
    except BadRelease:
        return
    # What is left are bits that mean nothing: padding, and fields of the archive that nobody reads.
    assert _names_and_bytes(bytes(data)) == _names_and_bytes(file.read_bytes())


def _check(release: Release) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        release.unpack(Path(folder))


def _names_and_bytes(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(one.name, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", [0, 100, 600, 5_000, 2_000_000])
def test_a_release_that_is_cut_off_is_refused(file: Path, tmp_path: Path, kept: int) -> None:
    with pytest.raises(BadRelease):
        opened(file.read_bytes()[:kept], tmp_path / "out")


def _rebuilt(file: Path, change: Any) -> bytes:
    """The archive with its members changed: ``change(name, data)`` gives the new ones."""
    out = io.BytesIO()
    with tarfile.open(file) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            data = old.extractfile(member)
            for name, content, kind in change(member.name, data.read() if data else b""):
                fresh = tarfile.TarInfo(name)
                fresh.size, fresh.type = len(content), kind
                new.addfile(fresh, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: [(name, data, tarfile.REGTYPE), ("wheels/more.whl", b"x", tarfile.REGTYPE)],
        lambda name, data: [(name, data.replace(b"b" * 10, b"c" * 10), tarfile.REGTYPE)],
        lambda name, data: [] if name == "wheels/b.whl" else [(name, data, tarfile.REGTYPE)],
        lambda name, data: [
            (name, b"" if name.endswith("b.whl") else data, tarfile.SYMTYPE if "b.whl" in name else b"0")
        ],
        lambda name, data: [] if name == "manifest.sig" else [(name, data, tarfile.REGTYPE)],
    ],
    ids=["a file more", "other bytes", "a file less", "a link", "no signature"],
)
def test_an_archive_that_was_tampered_with_is_refused(file: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises(BadRelease):
        opened(_rebuilt(file, change), tmp_path / "out")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b"])
def test_a_name_never_leads_out_of_the_folder_even_if_it_is_signed(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    pack({name: tmp_path / "x"}, tmp_path / "r", KEY, **ABOUT)
    with pytest.raises(BadRelease, match="not a name within"):
        opened((tmp_path / "r").read_bytes(), tmp_path / "out")
    assert not (tmp_path / "escape").exists()
