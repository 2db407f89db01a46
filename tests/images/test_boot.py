"""The amd64 image in QEMU: it starts, keeps what it promised when the plug is pulled, takes a signed update of its
whole system, and leaves a bad one by itself.

Takes half an hour, so it runs only when FLOWORK_TEST_IMAGE names an image (its .slot beside it): scripts/test-image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.machine import PATIENCE, Machine, machine
from tests.support.broker import Mosquitto, Peer
from tests.support.flows import compute, flow, node

ROOT = Path(__file__).parents[2]
IMAGE = Path(os.environ.get("FLOWORK_TEST_IMAGE", ""))

pytestmark = [
    pytest.mark.skipif(not IMAGE.is_file(), reason="FLOWORK_TEST_IMAGE names no image"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On a real disk: the images are larger than a /tmp in memory may be."""
    made = Path(os.environ.get("FLOWORK_TEST_FOLDER", "/var/tmp")) / f"flowork-image-{os.getpid()}"
    made.mkdir()
    yield made
    if "KEEP" not in os.environ:
        shutil.rmtree(made)


@pytest.fixture(scope="module")
def bios(folder: Path) -> Iterator[Machine]:
    """One machine with a BIOS, for all tests that need one."""
    (folder / "bios").mkdir()
    with machine(IMAGE, folder / "bios") as made:
        yield made


def tell(text: str) -> None:
    """Figures for the person who runs it."""
    with Path(os.environ.get("FLOWORK_TEST_FIGURES", "/dev/stderr")).open("a") as file:
        file.write(f"{text}\n")


def test_it_starts_from_a_bios(bios: Machine) -> None:
    took = bios.boot()
    tell(f"emulator: {bios.how}")
    tell(f"boot to panel, BIOS, first start: {took:.0f} s")
    bios.wait(lambda: bios.run("systemctl is-active ssh") == "active", "ssh")
    assert bios.run("test -d /sys/firmware/efi && echo uefi || echo bios") == "bios"
    tell("memory: " + bios.run("free -m | sed -n 2p"))
    tell("largest: " + bios.run("ps -eo rss,comm --sort=-rss | head -8 | paste -sd ';'"))
    tell("blame: " + bios.run("systemd-analyze; systemd-analyze blame | head -12"))


def test_what_the_card_said_was_taken_over_and_wiped(bios: Machine) -> None:
    assert bios.run("uname -n") == "testbox"
    assert bios.run("date +%Z") in ("CET", "CEST")
    assert bios.run("systemctl --failed --no-legend") == ""
    assert "a secret word" in bios.run("sudo cat /run/flowork/wifi.conf")
    card = bios.run("sudo cat /boot/flowork/flowork.toml")
    assert "testbox" in card
    assert "a secret word" not in card
    assert bios.http("GET", "/api/v1/session")["roles"] == {"*": "owner"}
    assert "PRIVATE KEY" not in bios.run("sudo journalctl --no-pager -b")


def test_the_system_is_read_only_and_the_data_have_the_whole_card(bios: Machine) -> None:
    assert bios.run("findmnt -n -o FSTYPE /") == "overlay"
    assert bios.run("findmnt -n -o OPTIONS /run/flowork/system").startswith("ro")
    size, source = bios.run("df --output=size,source -BM /var/lib/flowork | tail -n 1").split()
    assert int(size.rstrip("M")) > 3000, "the data partition has grown"
    assert source == "/dev/vda4"
    assert "noatime" in bios.run("findmnt -n -o OPTIONS /data")
    assert bios.run("tail -n 1 /proc/swaps").startswith("/dev/zram0")
    assert bios.run("findmnt -n -o FSTYPE -T /var/log") == "overlay"
    assert bios.run("stat -c '%U %a' /var/lib/flowork") == "flowork 700"


def test_a_run_survives_the_plug(bios: Machine, folder: Path) -> None:
    pull_the_plug(bios, folder, "BIOS")


def pull_the_plug(box: Machine, folder: Path, firmware: str) -> None:
    """An MQTT message starts a run, the power goes in the middle of it, and the next start finishes it."""
    with Mosquitto(folder) as broker, Peer(broker) as peer:
        there = f"mqtt://10.0.2.2:{broker.port}"
        peer.subscribe("answers/#")
        body = flow(
            node("log", "log", {"message": "begun"}),
            node("wait", "delay", {"for": "20s"}),
            compute("sum", "payload.n + 1"),
            node("tell", "mqtt_publish", {"broker": there, "topic": "answers/1", "qos": 1}),
            name="Plug",
            triggers=[{"id": "in", "type": "mqtt", "config": {"broker": there, "topic": "questions/+"}}],
        )
        box.http("POST", "/api/v1/flows", {"flow": body, "deploy": True})
        box.wait(lambda: "connected" in box.run("sudo flowork trigger list | grep plug"), "the trigger")
        peer.publish("questions/1", b'{"n": 41}')
        box.wait(lambda: _runs(box, "plug"), "the run")
        (run,) = _runs(box, "plug")
        assert run["state"] in ("running", "waiting"), run
        box.cut()
        assert peer.empty(), "the plug was pulled in the middle of the run"
        tell(f"boot to panel, {firmware}, after the cut: {box.boot():.0f} s")
        box.wait(lambda: not peer.empty(), "the answer of the run from before")
        assert peer.next() == ("answers/1", b"42")
        box.wait(lambda: _runs(box, "plug")[0]["state"] == "succeeded", "the end of the run")
        assert [each["id"] for each in _runs(box, "plug")] == [run["id"]], "nothing was started twice"


def _runs(box: Machine, flow_id: str) -> list[dict[str, str]]:
    items: list[dict[str, str]] = box.http("GET", f"/api/v1/runs?flow={flow_id}")["items"]
    return items


@pytest.fixture(scope="module")
def trusted(folder: Path) -> tuple[Path, str]:
    """A key that signs releases: its file, and its public half."""
    file = folder / "release.key"
    return file, _release("--new-key", str(file)).split()[-1]


def signed(slot: Path, key: Path) -> Path:
    """The release file of a whole system."""
    out = slot.parent / f"release-{slot.stem}" if slot.parent != IMAGE.parent else key.parent / "release"
    _release("--key", str(key), "--slot", str(slot), "--out", str(out))
    (made,) = out.glob("*-x86_64-slot.flowork")
    return made


def _release(*arguments: str) -> str:
    done = subprocess.run(
        [str(ROOT / "scripts/release"), *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def bring(box: Machine, release: Path) -> dict[str, str]:
    """Hand a release over as a person does, and wait until it has been dealt with; what the updater says of it."""
    box.run("sudo tee /data/release.flowork >/dev/null", data=release, timeout=1800)
    box.run("sudo flowork update /data/release.flowork && sudo rm /data/release.flowork", timeout=1800)
    box.wait(lambda: box.run("sudo test -e /var/lib/flowork/update/incoming.flowork || echo gone"), "the updater")
    return updater(box)


def updater(box: Machine) -> dict[str, str]:
    """What the updater says of the last release."""
    state: dict[str, str] = json.loads(box.run("sudo flowork-updater status"))
    return state


def restart(box: Machine, boots: int, patience: float) -> list[str]:
    """Start the machine again, and wait until it has begun so many boots; which."""
    before = len(box.boots())
    box.run("sudo systemd-run --quiet --on-active=1 systemctl reboot")
    box.wait(lambda: len(box.boots()) >= before + boots, f"{boots} boots", patience)
    return box.boots()[before:]


def broken_slot(folder: Path) -> Path:
    """A system whose kernel starts, and finds no program to begin with."""
    tree, made = folder / "broken", folder / "broken-amd64.slot"
    if made.exists():
        return made
    slot = IMAGE.with_suffix(".slot")
    subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-dest", str(tree), str(slot), "boot", "etc/flowork-image"],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    (tree / "etc/flowork-image").write_text(
        (tree / "etc/flowork-image").read_text().replace("version=", "version=broken-")
    )
    subprocess.run(
        ["mksquashfs", str(tree), str(made), "-quiet", "-no-progress", "-comp", "zstd", "-all-root"],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    return made


def test_an_update_that_nobody_trusts_is_refused(bios: Machine, folder: Path, trusted: tuple[Path, str]) -> None:
    state = bring(bios, signed(broken_slot(folder), trusted[0]))
    assert state["phase"] == "refused", state
    assert (bios.slots()["next"], bios.slots()["slots"]["b"]) == ("a", None)


def test_an_update_that_is_well_stays_by_itself_and_may_be_left_again(bios: Machine, trusted: tuple[Path, str]) -> None:
    bios.run(f"sudo flowork-updater trust {trusted[1]}")
    began = time.monotonic()
    state = bring(bios, signed(IMAGE.with_suffix(".slot"), trusted[0]))
    assert state["phase"] == "written", state
    tell(f"a release handed over, verified and written to the other slot: {time.monotonic() - began:.0f} s")
    found = bios.slots()
    assert (found["running"], found["trying"], found["left"]) == ("a", "b", 3)
    assert bios.run("sudo flowork update").X
    began = time.monotonic()
    assert restart(bios, 1, PATIENCE) == ["b?"]
    bios.wait(bios.well, "the panel, from the new slot")
    tell(f"reboot into the new slot, to its panel: {time.monotonic() - began:.0f} s")
    found = bios.slots()
    assert (found["running"], found["trial"], found["good"], found["left"]) == ("b", True, "a", 2)
    assert _runs(bios, "plug")[0]["state"] == "succeeded", "the data are the same"
    bios.wait(lambda: bios.slots()["good"] == "b", "five good minutes")
    bios.wait(lambda: updater(bios)["phase"] == "done", "the updater's word")
    tell(f"reboot into the new slot, until it is called good: {time.monotonic() - began:.0f} s")
    assert "done: version" in bios.run("sudo flowork update"), "what people read"
    assert bios.http("GET", "/api/v1/update")["state"]["phase"] == "done", "what the panel's page shows"
    bios.cut()
    bios.boot()
    found = bios.slots()
    assert (found["running"], found["good"], found["trial"]) == ("b", "b", False), "it stays"
    assert bios.http("GET", "/api/v1/update")["state"]["phase"] == "done"
    assert bios.boots()[-1] == "b"
    bios.run("sudo flowork-slot back && sudo systemd-run --quiet --on-active=1 systemctl reboot")
    bios.wait(lambda: bios.boots()[-1] == "a", "the boot of the old slot")
    bios.wait(bios.well, "the panel, from the old slot")


def test_an_update_that_does_not_start_is_left_after_three_boots(
    bios: Machine, folder: Path, trusted: tuple[Path, str]
) -> None:
    state = bring(bios, signed(broken_slot(folder), trusted[0]))
    assert state["phase"] == "written", state
    found = bios.slots()
    assert (found["running"], found["trying"], found["left"]) == ("a", "b", 3)
    assert found["slots"]["b"]["version"].startswith("broken-")
    began = time.monotonic()
    assert restart(bios, 4, 2400) == ["b?", "b?", "b?", "a"]
    bios.wait(bios.well, "the panel, from the old slot")
    tell(f"three failed boots and back: {time.monotonic() - began:.0f} s")
    found = bios.slots()
    assert (found["running"], found["good"], found["failed"], found["trial"]) == ("a", "a", "b", False)
    bios.wait(lambda: updater(bios)["phase"] == "rolled-back", "the updater's word")
    assert _runs(bios, "plug")[0]["state"] == "succeeded", "the data are the same"


def test_from_a_uefi_it_starts_and_survives_the_plug(bios: Machine, folder: Path) -> None:
    bios.cut()  # one machine at a time
    (folder / "uefi").mkdir()
    with machine(IMAGE, folder / "uefi", uefi=True) as box:
        tell(f"boot to panel, UEFI, first start: {box.boot():.0f} s")
        assert box.run("test -d /sys/firmware/efi && echo uefi || echo bios") == "uefi"
        assert box.slots()["running"] == "a"
        pull_the_plug(box, folder, "UEFI")
