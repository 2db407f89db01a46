"""Fetching a large file: cuts, changes, faults of the source, and kill -9, against a real server."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.ai.library import fetch, parts, room
from appliance.ai.library.errors import CannotFetch, ModelIsThere, NoRoom
from tests.ai.library.source import Source

CONTENT = hashlib.shake_128(b"a model").digest(1_000_000)


@pytest.fixture
def source() -> Iterator[Source]:
    with Source({"model.gguf": CONTENT}) as source:
        yield source


class Pauses(list[float]):
    """Notes the pauses instead of waiting."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(source: Source, part: Path, *, trust: bool = False, pauses: Pauses | None = None) -> int:
    return fetch.fetch(
        source.url("model.gguf"), part, lambda *_: None, wait=Pauses() if pauses is None else pauses, trust=trust
    )


def test_a_source_is_asked_what_it_has(source: Source) -> None:
    offer = fetch.look(source.url("model.gguf"))
    assert (offer.size, offer.etag, offer.ranges) == (len(CONTENT), '"one"', True)
    source.ranges = False
    assert fetch.look(source.url("model.gguf")).size == len(CONTENT)
    with pytest.raises(CannotFetch, match="404"):
        fetch.look(source.url("other.gguf"))


def test_a_file_comes_with_its_progress(source: Source, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    size = fetch.fetch(source.url("model.gguf"), tmp_path / "p", lambda done, total, what: heard.append((done, total)))
    assert size == len(CONTENT)
    assert (tmp_path / "p").read_bytes() == CONTENT
    assert heard[0] == (0, size)
    assert heard[-1] == (size, size)
    assert heard == sorted(heard)


def test_cuts_cost_nothing_but_a_pause(source: Source, tmp_path: Path) -> None:
    source.cuts = [100_000, 300_000, 300_000, 900_000]
    pauses = Pauses()
    assert get(source, tmp_path / "p", pauses=pauses) == len(CONTENT)
    assert (tmp_path / "p").read_bytes() == CONTENT
    assert source.asked[0] == ""
    begins = [int(range_[6:-1]) for range_ in source.asked[1:]]
    assert begins == sorted(begins), "each goes on where the last one was cut"
    assert begins[-1] == 900_000
    assert max(pauses) <= 4, "what makes progress is tried again soon"


def test_a_file_that_changed_meanwhile_begins_anew(source: Source, tmp_path: Path) -> None:
    source.cuts = [300_000]
    other = hashlib.shake_128(b"another model").digest(900_000)

    def change(seconds: float) -> None:
        source.files["model.gguf"], source.etag = other, '"two"'

    fetch.fetch(source.url("model.gguf"), tmp_path / "p", lambda *_: None, wait=change)
    assert (tmp_path / "p").read_bytes() == other


def test_a_source_that_cannot_resume_begins_anew(source: Source, tmp_path: Path) -> None:
    source.ranges, source.cuts = False, [300_000]
    assert get(source, tmp_path / "p") == len(CONTENT)
    assert (tmp_path / "p").read_bytes() == CONTENT


def test_without_any_mark_it_goes_on_only_for_who_checks_a_checksum(source: Source, tmp_path: Path) -> None:
    source.etag = ""
    for trust, second in ((False, ""), (True, "bytes=300000-")):
        source.cuts, source.asked = [300_000], []
        parts.forget(tmp_path / "p")
        assert get(source, tmp_path / "p", trust=trust) == len(CONTENT)
        assert (tmp_path / "p").read_bytes() == CONTENT
        assert source.asked == ["", second]


def test_a_weak_tag_is_no_mark_but_a_date_is(source: Source, tmp_path: Path) -> None:
    source.etag, source.modified, source.cuts = 'W/"x"', "Sat, 21 Nov 2026 07:00:00 GMT", [300_000]
    assert get(source, tmp_path / "p") == len(CONTENT)
    assert source.asked == ["", "bytes=300000-"]


def test_another_address_does_not_go_on_with_what_came_from_elsewhere(source: Source, tmp_path: Path) -> None:
    source.cuts = [300_000]
    source.files["other.gguf"] = CONTENT[::-1]
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(source.url("model.gguf"), tmp_path / "p", lambda *_: None, wait=_interrupt)
    fetch.fetch(source.url("other.gguf"), tmp_path / "p", lambda *_: None)
    assert (tmp_path / "p").read_bytes() == CONTENT[::-1]


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_what_is_whole_already_is_not_fetched_again(source: Source, tmp_path: Path) -> None:
    get(source, tmp_path / "p")
    assert get(source, tmp_path / "p") == len(CONTENT)
    assert source.asked[-1] == f"bytes={len(CONTENT)}-"
    assert (tmp_path / "p").read_bytes() == CONTENT


def test_a_source_in_trouble_is_given_time_and_then_up(source: Source, tmp_path: Path) -> None:
    source.statuses, source.headers = [503, 429], {"Retry-After": "7"}
    pauses = Pauses()
    assert get(source, tmp_path / "p", pauses=pauses) == len(CONTENT)
    assert pauses == [7, 7]
    source.statuses, source.headers = [503] * 20, {}
    parts.forget(tmp_path / "p")
    pauses = Pauses()
    with pytest.raises(CannotFetch, match="503 Service Unavailable; tried 8 times"):
        get(source, tmp_path / "p", pauses=pauses)
    assert pauses == [1, 2, 4, 8, 16, 32, 60]


@pytest.mark.parametrize(("status", "words"), [(404, "404"), (401, "wants a login"), (403, "licence")])
def test_a_refusal_is_not_tried_again(source: Source, tmp_path: Path, status: int, words: str) -> None:
    source.statuses = [status]
    pauses = Pauses()
    with pytest.raises(CannotFetch, match=words):
        get(source, tmp_path / "p", pauses=pauses)
    assert pauses == []


def test_a_web_page_is_no_model(source: Source) -> None:
    source.type = "text/html; charset=utf-8"
    with pytest.raises(CannotFetch, match="web page"):
        fetch.look(source.url("model.gguf"))


@pytest.mark.parametrize("leads", ["file:///etc/passwd", "ftp://host.invalid/x"])
def test_it_follows_to_no_other_kind_of_address(source: Source, tmp_path: Path, leads: str) -> None:
    source.redirect = leads
    pauses = Pauses()
    with pytest.raises(CannotFetch, match=r"it leads to|302 Found"):
        get(source, tmp_path / "p", pauses=pauses)
    assert pauses == []


def test_a_redirect_is_followed_with_its_range(source: Source, tmp_path: Path) -> None:
    with Source() as door:
        door.redirect = source.url("model.gguf")
        source.cuts = [300_000]
        fetch.fetch(door.url("model.gguf"), tmp_path / "p", lambda *_: None, wait=Pauses())
    assert (tmp_path / "p").read_bytes() == CONTENT
    assert source.asked == ["", "bytes=300000-"]


def test_a_host_that_is_away_is_said(tmp_path: Path) -> None:
    with Source() as gone:
        url = gone.url("model.gguf")
    with pytest.raises(CannotFetch, match="refused"):
        fetch.fetch(url, tmp_path / "p", lambda *_: None, wait=Pauses())


def test_a_disk_without_room_is_said_before_anything_comes(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SPARE", 1 << 60)
    with pytest.raises(NoRoom, match=r"it takes 1 MB.*flowork models remove"):
        get(source, tmp_path / "p")


def test_a_disk_that_others_fill_while_a_file_comes_is_left_some_room_and_it_goes_on_later(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_LOOK", 1 << 17)
    left = [1 << 40]
    monkeypatch.setattr(parts, "free_on", lambda folder: left[0])

    def fill(done: int, total: int, what: str) -> None:
        if done >= 400_000:
            left[0] = room.SPARE // 2 - 1

    with pytest.raises(NoRoom, match=r"no room left for models. 0\.\d of 1\.0 MB have come and are kept: make room"):
        fetch.fetch(source.url("model.gguf"), tmp_path / "p", fill)
    came = (tmp_path / "p").stat().st_size
    assert 0 < came < len(CONTENT)
    left[0] = 1 << 40
    assert get(source, tmp_path / "p") == len(CONTENT)
    assert (tmp_path / "p").read_bytes() == CONTENT
    assert source.asked == ["", f"bytes={came}-"]


def test_a_full_disk_is_no_fault_of_the_network(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, block: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pauses = Pauses()
    with monkeypatch.context() as full, pytest.raises(NoRoom, match=r"0\.0 of 1\.0 MB have come and are kept"):
        full.setattr(os, "write", refuse)
        get(source, tmp_path / "p", pauses=pauses)
    assert pauses == []


def test_two_at_once_do_not_write_into_one_file(source: Source, tmp_path: Path) -> None:
    began, go = threading.Event(), threading.Event()

    def hold(sent: int) -> None:
        began.set()
        go.wait(20)

    source.before_block = hold
    first = threading.Thread(target=get, args=(source, tmp_path / "p"))
    first.start()
    assert began.wait(20)
    with pytest.raises(ModelIsThere, match="being fetched"):
        get(source, tmp_path / "p")
    go.set()
    first.join()
    assert (tmp_path / "p").read_bytes() == CONTENT


def test_after_kill_minus_nine_it_goes_on_where_it_was(source: Source, tmp_path: Path) -> None:
    half = threading.Event()
    go = threading.Event()

    def hold(sent: int) -> None:
        if sent >= 500_000:
            half.set()
            go.wait(20)

    source.before_block = hold
    code = (
        "import sys\nfrom pathlib import Path\nfrom appliance.ai.library.fetch import fetch\n"
        "fetch(sys.argv[1], Path(sys.argv[2]), lambda *a: print(a[0], flush=True))\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", code, source.url("model.gguf"), str(tmp_path / "p")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        assert half.wait(20)
        while int(process.stdout.readline()) < 400_000:
            pass
        process.kill()
    go.set()
    have = (tmp_path / "p").stat().st_size
    assert have >= 400_000
    source.before_block = lambda sent: None
    assert get(source, tmp_path / "p") == len(CONTENT)
    assert source.asked == ["", f"bytes={have}-"]
    assert (tmp_path / "p").read_bytes() == CONTENT
