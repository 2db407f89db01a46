"""`flowork-slot` on a folder that stands for a box: writing a slot, trying it, judging it, going back."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path

import pytest

from appliance.box import slot
from appliance.box.place import Box, BoxError
from appliance.box.slots import Choice, SlotError, write
from appliance.box.watch import Watch

ROOM = 1 << 20


def system(size: int = 300_000, claims: int | None = None) -> bytes:
    """Something with a squashfs's head."""
    head = bytearray(b"hsqs" + bytes(92))
    struct.pack_into("<Q", head, 40, size if claims is None else claims)
    return bytes(head) + bytes(index % 251 for index in range(size - len(head)))


class House:
    """The folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.box = Box(root)
        for name in ("proc", "etc", "dev", "boot/flowork/flowork/a", "boot/flowork/flowork/b"):
            (root / name).mkdir(parents=True)
        self.started("a")
        (root / "etc/flowork-image").write_text("version=1\narch=amd64\nlayout=1\n")
        self.loader = root / "boot/flowork/flowork/slots.env"
        self.loader.write_bytes(write(Choice()))
        for name in "ab":
            (root / f"dev/slot-{name}").write_bytes(bytes(ROOM))
        self.holds("version=2\narch=amd64\nlayout=1\n")

    def started(self, name: str, trial: bool = False) -> None:
        words = f"root=PARTUUID=x ro quiet flowork.slot={name}" + (" flowork.trial=1" if trial else "")
        (self.root / "proc/cmdline").write_text(f"{words}\n")

    def holds(self, image: str) -> None:
        """What is seen in slot B once it is opened."""
        files = self.root / "dev/slot-b.files"
        for name, text in (("etc/flowork-image", image), ("boot/vmlinuz-6", "kernel"), ("boot/initrd.img-6", "initrd")):
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).write_text(text)

    def write(self, data: bytes, sha256: str | None = None) -> str:
        return self.box.write_slot("b", io.BytesIO(data), sha256)

    def call(self, *arguments: str) -> int:
        return slot.main(list(arguments), self.box)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_system_is_written_and_its_kernel_put_where_the_loader_reads(house: House) -> None:
    data = system()
    assert house.write(data, hashlib.sha256(data).hexdigest()) == "2"
    assert (house.root / "dev/slot-b").read_bytes()[: len(data)] == data
    assert (house.root / "dev/slot-b").stat().st_size == ROOM
    assert (house.box.boot / "flowork/b/vmlinuz").read_text() == "kernel"
    assert (house.box.boot / "flowork/b/initrd.img").read_text() == "initrd"
    assert house.box.image_of("b") == {"version": "2", "arch": "amd64"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"MZ" + bytes(5000), "no system for a slot"),
        (b"", "no system for a slot"),
        (system(claims=400_000), "cut off: 300000 bytes of 400000"),
        (system(claims=ROOM + 1), "more than the slot's"),
        (system(ROOM + 1, claims=ROOM), "larger than a slot"),
    ],
)
def test_what_is_no_system_leaves_an_empty_slot(house: House, data: bytes, said: str) -> None:
    house.write(system())
    with pytest.raises(SlotError, match=said):
        house.write(data)
    assert house.box.image_of("b") is None


def test_a_write_that_is_cut_off_leaves_no_head(house: House) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 200_000:
                raise OSError("the stick was pulled")
            return super().read(min(size or 0, 50_000))

    house.write(system())
    with pytest.raises(OSError, match="pulled"):
        house.box.write_slot("b", Cut(system()), None)
    assert house.box.image_of("b") is None
    assert (house.root / "dev/slot-b").read_bytes()[:4] == bytes(4)


def test_another_file_than_was_meant_is_refused(house: House) -> None:
    with pytest.raises(SlotError, match="not the one that was meant"):
        house.write(system(), "00" * 32)
    assert house.box.image_of("b") is None


@pytest.mark.parametrize("image", ["version=2\narch=arm64\nlayout=1\n", "version=2\narch=amd64\nlayout=2\n"])
def test_a_system_for_another_machine_is_refused(house: House, image: str) -> None:
    house.holds(image)
    with pytest.raises(SlotError, match="the file is for another"):
        house.write(system())
    assert house.box.image_of("b") is None


def test_from_write_to_good(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new.slot"
    file.write_bytes(system())
    assert house.call("try") == 4
    assert "no whole system" in capsys.readouterr().err
    assert house.call("write", str(file)) == 0
    assert house.call("try") == 0
    assert house.box.choice() == Choice("a", "b", 3)
    # The loader has begun the first try.
    house.loader.write_bytes(write(Choice("a", "b", 2)))
    house.started("b", trial=True)
    assert house.call("write", str(file)) == 4
    assert house.call("try") == 4
    assert "falls back on" in capsys.readouterr().err
    assert house.call("good") == 0
    assert house.box.choice() == Choice("b")
    assert not house.box.trial()
    assert house.loader.stat().st_size == 1024


def test_status(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.write(system())
    house.loader.write_bytes(write(Choice("a", "b", 0)))
    assert house.call("status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["running"], told["failed"], told["next"], told["trial"]) == ("a", "b", "a", False)
    assert told["slots"] == {"a": None, "b": {"version": "2", "arch": "amd64"}}
    assert house.call("status") == 0
    assert "FAILED three times" in capsys.readouterr().out


def test_a_machine_that_is_no_image(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    (house.root / "proc/cmdline").write_text("root=/dev/sda1 quiet\n")
    with pytest.raises(BoxError):
        house.box.running()
    assert house.call("status") == 1
    assert "not started from a Flowork image" in capsys.readouterr().err


def test_the_gateways_port(house: House) -> None:
    assert house.box.port() == 5000
    drop = house.root / "etc/systemd/system/flowork-gateway.socket.d/50-flowork-port.conf"
    drop.parent.mkdir(parents=True)
    drop.write_text("[Socket]\nListenStream=\nListenStream=8080\n")
    assert house.box.port() == 8080


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rebooted = self.told = False

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def reboot(self) -> None:
        self.rebooted = True

    def tell(self) -> None:
        self.told = True


def judge(house: House, well_at: range | tuple[range, ...]) -> Time:
    """Watch a trial boot that is well in these seconds."""
    clock, spans = Time(), well_at if isinstance(well_at, tuple) else (well_at,)
    house.loader.write_bytes(write(Choice("a", "b", 2)))
    house.started("b", trial=True)
    Watch(
        house.box,
        steady=300,
        limit=900,
        ask=lambda: any(int(clock.now) in span for span in spans),
        now=lambda: clock.now,
        sleep=clock.sleep,
        reboot=clock.reboot,
        tell=clock.tell,
    ).run()
    return clock


def test_five_good_minutes(house: House) -> None:
    clock = judge(house, range(40, 10_000))
    assert (clock.now, clock.rebooted, clock.told) == (340, False, True)
    assert house.box.choice() == Choice("b")


def test_a_break_begins_them_anew(house: House) -> None:
    clock = judge(house, (range(40, 300), range(400, 10_000)))
    assert (clock.now, clock.rebooted) == (700, False)


def test_never_well(house: House) -> None:
    clock = judge(house, range(0))
    assert (clock.now, clock.rebooted) == (900, True)
    assert house.box.choice() == Choice("a", "b", 2), "the loader counts"


def test_well_late_may_still_become_good(house: House) -> None:
    clock = judge(house, range(890, 10_000))
    assert (clock.now, clock.rebooted) == (1190, False)


def test_who_calls_it_good_earlier_ends_the_watch(house: House) -> None:
    clock = Time()
    house.loader.write_bytes(write(Choice("a", "b", 2)))
    house.started("b", trial=True)

    def ask() -> bool:
        if clock.now >= 100:
            house.box.tell(Choice("b"))
        return True

    watch = Watch(house.box, steady=300, limit=900, ask=ask, now=lambda: clock.now, sleep=clock.sleep)
    assert watch.run() == 0
    assert clock.now == 105


def test_it_waits_for_the_boot_partition(house: House) -> None:
    clock = Time()
    house.started("b", trial=True)
    house.loader.unlink()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now == 50:
            house.loader.write_bytes(write(Choice("a", "b", 2)))

    watch = Watch(
        house.box, steady=300, limit=900, ask=lambda: True, now=lambda: clock.now, sleep=sleep, tell=clock.tell
    )
    assert watch.run() == 0
    assert (clock.now, house.box.choice()) == (350, Choice("b"))


def test_nothing_is_watched_without_a_trial(house: House) -> None:
    assert Watch(house.box, steady=300, limit=900, ask=lambda: False).run() == 0
