"""Updates over the link: a real fleet, real agents as processes of their own, real kills, and packages that are bad."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.contracts import AgentState
from appliance.fleet.updates import NotUpdated, Release
from edge_agent import __version__, launcher, network
from edge_agent.config import FILE
from edge_agent.machine import machine_id
from edge_agent.protocol import certificates, package
from edge_agent.protocol.package import Package, PackageError, Requirement
from edge_agent.versions import State, Trial, Versions
from tests.edge.standalone import RemoteAgent
from tests.fleet.rig import Listener, Rig
from tests.support.appliance import Appliance
from tests.support.broker import eventually, free_port

NEWER = "999.1"
NAME = "greenhouse"
pytestmark = pytest.mark.timeout(120)


def code(folder: Path, *changes: tuple[str, str, str], version: str = NEWER) -> Path:
    """A copy of the agent's code as another release has it; ``changes`` are (file, text, what is there instead)."""
    for name in package.FOLDERS:
        shutil.copytree(package.code_root() / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text, instead in (("edge_agent/__init__.py", __version__, version), *changes):
        path = folder / file
        whole = path.read_text()
        assert text in whole
        path.write_text(whole.replace(text, instead, 1))
    return folder


class Altered(Release):
    """A release whose package is not as it should be."""

    def __init__(self, data: Path, root: Path, alter: Callable[[Package], Package]) -> None:
        super().__init__(data, root)
        self._alter = alter

    def package(self) -> Package:
        return self._alter(super().package())


class Garden(Rig):
    """An appliance with another release than the agent that is paired with it."""

    def __init__(self, data: Path, release: Release, **options: Any) -> None:
        super().__init__(data, port=free_port(), owned=lambda: True, release=release, **options)
        self.folder = data / NAME
        self.folder.mkdir()

    def pair(self, well_for: float = 0.2, well_within: float = 60.0, more: str = "") -> None:
        here = f"127.0.0.1:{self.options['port']}"
        network.pair(self.folder, self.fleet.door.pair(NAME).code, [here], machine_id(), search=False)
        settings = f"discovery = false\nwell_for = {well_for}\nwell_within = {well_within}\n{more}"
        (self.folder / FILE).write_text(settings)

    @property
    def now(self) -> AgentState:
        return self.state(NAME)

    def online(self, version: str = "") -> None:
        def there() -> bool:
            return self.now.online and (not version or self.now.version == version)

        eventually(there, f"the agent, with version {version or 'any'}")

    def begin(self) -> str:
        """Ask for the update; the version."""
        done = threading.Event()
        outcome: list[Any] = []
        self.fleet.update(NAME).then(lambda value, error: (outcome.extend((value, error)), done.set()))
        assert done.wait(20)
        if outcome[1] is not None:
            raise outcome[1]
        return str(outcome[0])

    def ends(self) -> tuple[str, str]:
        """How the update has ended: phase and text."""

        def over() -> bool:
            update = self.now.update
            return self.now.online and update is not None and update.phase in ("updated", "refused", "rolled back")

        eventually(over, "the end of the update")
        assert self.now.update is not None
        assert self.now.update.version == NEWER
        return self.now.update.phase, self.now.update.text

    def reaches(self, phase: str, percent: int = 0) -> None:
        def there() -> bool:
            update = self.now.update
            return update is not None and update.phase == phase and update.percent >= percent

        eventually(there, f"phase {phase}")


@pytest.fixture
def garden(tmp_path: Path) -> Iterator[Callable[..., Garden]]:
    made: list[Garden] = []

    def make(release: Release | None = None, *changes: tuple[str, str, str], **options: Any) -> Garden:
        found = Garden(tmp_path / "box", release or Release(tmp_path / "box", code(tmp_path / "new", *changes)))
        made.append(found)
        found.pair(**options)
        return found

    yield make
    for each in made:
        each.close()


def agent(made: Garden) -> RemoteAgent:
    return RemoteAgent(made.folder)


# --- well ---------------------------------------------------------------------------------------------


def test_an_agent_is_updated_and_no_event_is_lost_or_doubled(garden: Callable[..., Garden], tmp_path: Path) -> None:
    """Files appear all the while: before, while it receives, while it restarts, and behind that."""
    watched = tmp_path / "watched"
    watched.mkdir()
    made = garden()
    with agent(made) as process:
        made.online(__version__)
        assert made.now.newer == NEWER
        assert made.now.update is None
        heard = Listener()
        made.watch(heard, {"folder": str(watched), "settle": 0.0}, agent=NAME, driver="files")
        heard.until(lambda: bool(heard.events), "the first look at the folder")
        count, going_on, gate = [0], [True], threading.Event()

        def write() -> None:
            while going_on[0]:
                (watched / f"f{count[0]:05}").write_text("x")
                count[0] += 1
                gate.wait(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert made.begin() == NEWER
            assert made.ends() == ("updated", f"version {NEWER} runs")
            made.online(NEWER)
            behind = count[0] + 20
            eventually(lambda: count[0] >= behind, "more files")
        finally:
            going_on[0] = False
            writer.join()

        def names() -> list[str]:
            return [str(event.value["name"]) for event in heard.events if event.kind == "created"]

        heard.until(lambda: len(set(names())) >= count[0], "all files")
        assert sorted(names()) == [f"f{number:05}" for number in range(count[0])]
        assert made.now.newer == ""
        assert [path.name for path in (made.folder / "versions").iterdir() if path.is_dir()] == [chosen(made)]
        assert process.said.count("connected to the appliance") == 2
    assert process.process.returncode == 0
    with agent(made):  # the next start runs it at once
        made.until(lambda: made.now.online and made.now.version == NEWER, "the same version")


def chosen(made: Garden) -> str:
    return Versions(made.folder).read().chosen


def test_a_second_update_replaces_the_first_and_leaves_one_process(
    garden: Callable[..., Garden], tmp_path: Path
) -> None:
    made = garden()
    with agent(made) as process:
        made.online()
        made.begin()
        made.ends()
        first = chosen(made)
        made.fleet.stop()
        root = code(tmp_path / "newest", version="999.2")
        made.options["release"] = Release(made.data, root)
        made.begin_fleet()
        made.online(NEWER)
        made.begin()
        made.online("999.2")
        eventually(lambda: chosen(made).startswith("999.2-"), "the choice")
        eventually(lambda: first not in os.listdir(made.folder / "versions"), "the end of the version before")
        family = [process.process.pid, *(each.pid for each in psutil.Process(process.process.pid).children())]
        assert len(family) == 2, "a launcher and the agent, however many updates there were"


def test_outputs_are_safe_while_it_restarts(garden: Callable[..., Garden]) -> None:
    made = garden()
    with agent(made) as process:
        made.online()
        config = {"interval": 60.0, "safe": False}
        heard = Listener()
        made.watch(heard, config, agent=NAME)
        heard.well()
        made.command({"entity": "lamp", "value": True}, config, agent=NAME)
        heard.until(lambda: heard.kinds("lamp")[-1:] == [True], "the lamp")
        made.begin()
        assert made.ends()[0] == "updated"
        assert "the agent did not end by itself" not in process.said
        heard.until(lambda: heard.kinds("lamp")[-1] is False, "the safe state")


# --- bad packages -------------------------------------------------------------------------------------


def flipped(whole: Package) -> Package:
    payload = bytearray(whole.payload)
    payload[len(payload) // 2] ^= 1
    return Package(whole.manifest, whole.signature, bytes(payload))


def of_another_key(whole: Package) -> Package:
    key, _ = certificates.make("somebody else")
    root = package.code_root()
    other = package.make(root, key, python=(3, 11), requires=[])
    return Package(whole.manifest, other.signature, whole.payload)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (flipped, "the package was damaged on its way"),
        (of_another_key, "was not signed by the appliance that this agent is paired with"),
    ],
)
def test_a_package_that_was_tampered_with_is_refused_and_leaves_nothing(
    garden: Callable[..., Garden], tmp_path: Path, alter: Callable[[Package], Package], words: str
) -> None:
    made = garden(Altered(tmp_path / "box", code(tmp_path / "new"), alter))
    with agent(made):
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "refused"
        assert words in text
        assert made.now.version == __version__
        assert [path.name for path in (made.folder / "versions").iterdir()] == ["state.json"]


def test_what_lacks_a_library_there_is_refused_before_it_is_sent(garden: Callable[..., Garden], tmp_path: Path) -> None:
    def greedy(whole: Package) -> Package:
        key = (tmp_path / "box" / "keys" / "agents" / certificates.KEY).read_bytes()
        return package.make(tmp_path / "new", key, python=(3, 11), requires=[Requirement("msgspec", "77.0")])

    made = garden(Altered(tmp_path / "box", code(tmp_path / "new"), greedy))
    with agent(made):
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "refused"
        assert "needs msgspec 77.0, and there is" in text


def test_code_that_does_not_load_is_refused_before_it_is_started(garden: Callable[..., Garden]) -> None:
    made = garden(None, ("edge_agent/agent.py", "import fcntl", "import no_such_library"))
    with agent(made) as process:
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "refused"
        assert "No module named 'no_such_library'" in text
        assert process.said.count("connected to the appliance") == 1, "it was not even restarted"


def test_one_that_crashes_at_start_is_rolled_back_with_its_last_words(garden: Callable[..., Garden]) -> None:
    made = garden(None, ("edge_agent/agent.py", "self._load_config()", "raise RuntimeError('the fuse is blown')"))
    with agent(made):
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "rolled back"
        assert "exit code 1" in text
        assert "RuntimeError: the fuse is blown" in text
        made.online(__version__)
        assert made.now.newer == NEWER
    assert chosen(made) == ""


def test_one_that_hangs_is_rolled_back_when_its_time_is_up(garden: Callable[..., Garden]) -> None:
    made = garden(None, ("edge_agent/agent.py", "self._load_config()", "time.sleep(10_000)"), well_within=2.0)
    with agent(made):
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "rolled back"
        assert text.startswith("it was not well within 2 s")
        made.online(__version__)


def test_one_that_never_gets_through_is_rolled_back_and_says_why(garden: Callable[..., Garden]) -> None:
    made = garden(
        None,
        ("edge_agent/network.py", "address(where)\n        except", "address('none:')\n        except"),
        well_within=2.0,
    )
    with agent(made):
        made.online()
        made.begin()
        phase, text = made.ends()
        assert phase == "rolled back"
        assert "it was not connected to the appliance" in text


def test_one_whose_drivers_do_not_work_any_more_is_rolled_back(garden: Callable[..., Garden]) -> None:
    broken = (
        "drivers/sim.py",
        "    def open(self) -> None:",
        "    def open(self) -> None:\n        raise OSError('no board')\n",
    )
    made = garden(None, broken, well_within=3.0)
    with agent(made):
        made.online()
        heard = Listener()
        made.watch(heard, {"interval": 0.05}, agent=NAME)
        heard.well()
        made.begin()
        phase, text = made.ends()
        assert phase == "rolled back"
        assert "a driver that ran before does not: sim: OSError: no board" in text
        count = len(heard.events)
        heard.until(lambda: len(heard.events) > count, "events of the version before")


# --- kills --------------------------------------------------------------------------------------------


def killed(process: RemoteAgent, *, whom: str = "all") -> None:
    """SIGKILL to the process that was started, to its child, or to both at once, as a power cut does."""
    first = psutil.Process(process.process.pid)
    family = {"parent": [first], "child": first.children(), "all": [first, *first.children(recursive=True)]}[whom]
    for each in family:
        each.kill()
    if whom != "child":
        process.process.wait(20)


def test_a_power_cut_while_it_receives(garden: Callable[..., Garden], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come stays, and it goes on from there."""
    monkeypatch.setattr(package, "PIECE", 256)
    made = garden()
    wanted: list[int] = []
    want = made.fleet._updates.want

    def noted(remote: Any, link: Any, message: Any) -> None:
        wanted.append(message.offset)
        want(remote, link, message)

    monkeypatch.setattr(made.fleet._updates, "want", noted)
    with agent(made) as process:
        made.online()
        made.begin()
        made.reaches("receiving", 20)
        killed(process)
    had = len(wanted)
    with agent(made):
        assert made.ends()[0] == "updated"
    assert wanted[had] >= wanted[had - 1] > 0
    assert wanted[had:] == sorted(set(wanted[had:]))


def test_the_appliance_goes_down_while_it_sends(garden: Callable[..., Garden], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "PIECE", 256)
    made = garden()
    with agent(made):
        made.online()
        made.begin()
        made.reaches("receiving", 10)
        made.fleet.stop()
        made.begin_fleet()
        assert made.ends()[0] == "updated"


def test_a_power_cut_while_it_unpacks(garden: Callable[..., Garden]) -> None:
    made = garden()
    with agent(made) as process:
        made.online()
        made.begin()
        made.reaches("checking")
        killed(process)
    with agent(made):
        assert made.ends()[0] == "updated"
        made.online(NEWER)


@pytest.mark.parametrize("whom", ["parent", "all"])
def test_a_power_cut_while_it_is_on_trial_begins_the_trial_anew(garden: Callable[..., Garden], whom: str) -> None:
    made = garden(well_for=1.0)
    with agent(made) as process:
        made.online()
        made.begin()
        made.online(NEWER)
        made.reaches("trial")
        child = psutil.Process(process.process.pid).children()[0]
        killed(process, whom=whom)
        child.wait(20)  # without its launcher nobody would watch over it
    with agent(made):
        assert made.ends()[0] == "updated"


def test_one_that_is_cut_off_again_and_again_is_rolled_back(garden: Callable[..., Garden]) -> None:
    made = garden(well_for=3600.0, well_within=7200.0)
    with agent(made) as process:
        made.online()
        made.begin()
        process.until_it_says("is tried")
        killed(process)
    with agent(made) as process:
        process.until_it_says("is tried", 2)
        killed(process)
    with agent(made):
        phase, text = made.ends()
        assert phase == "rolled back"
        assert "cut off 2 times" in text
        made.online(__version__)


def test_one_that_dies_on_trial_is_rolled_back_at_once(garden: Callable[..., Garden]) -> None:
    made = garden(well_for=3600.0, well_within=7200.0)
    with agent(made) as process:
        made.online()
        made.begin()
        made.online(NEWER)
        made.reaches("trial")
        killed(process, whom="child")
        phase, text = made.ends()
        assert phase == "rolled back"
        assert signal.strsignal(signal.SIGKILL) in text
        made.online(__version__)


def test_being_stopped_on_trial_is_no_fault(garden: Callable[..., Garden]) -> None:
    made = garden(well_for=3600.0, well_within=7200.0)
    for _ in range(3):
        with agent(made) as process:
            if chosen(made) == "" and made.now.update is None:
                made.online()
                made.begin()
            made.online(NEWER)
            made.reaches("trial")
        assert process.process.returncode == 0
    assert Versions(made.folder).read().trial is not None


def test_one_that_hangs_does_not_hold_up_the_end_of_the_machine(garden: Callable[..., Garden]) -> None:
    made = garden(None, ("edge_agent/agent.py", "self._load_config()", "time.sleep(10_000)"), well_within=7200.0)
    with agent(made) as process:
        made.online()
        made.begin()
        process.until_it_says("is tried")
    assert process.process.returncode is not None
    assert Versions(made.folder).read().trial is not None


def test_a_version_that_the_card_has_damaged_is_not_run(garden: Callable[..., Garden]) -> None:
    made = garden()
    with agent(made):
        made.online()
        made.begin()
        made.ends()
    victim = made.folder / "versions" / chosen(made) / "drivers" / "base.py"
    victim.write_bytes(victim.read_bytes()[:-1])
    with agent(made):
        made.online(__version__)
        assert made.ends()[0] == "rolled back"
        assert made.now.update is not None
        assert "drivers/base.py is damaged" in made.now.update.text


def test_a_disk_that_takes_nothing_ends_a_trial_and_not_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = Versions(tmp_path)
    versions.write(State(trial=Trial("9.9-abc", "9.9")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Versions, "write", full)
    monkeypatch.setattr(Versions, "damage", lambda *_: "")
    assert launcher.launch(tmp_path, 60.0, lambda: 7) == 7
    assert versions.read().trial is not None  # for another time


# --- who may, and when --------------------------------------------------------------------------------


def test_nothing_is_updated_unasked_but_for_the_setting(garden: Callable[..., Garden], tmp_path: Path) -> None:
    made = garden()
    with agent(made):
        made.online()
        heard = Listener()
        made.watch(heard, agent=NAME)
        heard.well()
        assert made.now.update is None
        made.fleet.stop()
        made.options["automatic_updates"] = True
        made.begin_fleet()
        assert made.ends()[0] == "updated"


def test_what_was_rolled_back_is_not_tried_again_by_itself(garden: Callable[..., Garden]) -> None:
    made = garden(None, ("edge_agent/agent.py", "self._load_config()", "raise RuntimeError('no')"))
    with agent(made) as process:
        made.online()
        made.begin()
        assert made.ends()[0] == "rolled back"
        made.fleet.stop()
        made.options["automatic_updates"] = True
        made.begin_fleet()
        assert made.ends()[0] == "rolled back"
        heard = Listener()
        made.watch(heard, agent=NAME)
        heard.well()
        assert process.said.count("is tried") == 1
        assert made.begin() == NEWER  # but when somebody says so
        process.until_it_says("is tried", 2)
        assert made.ends()[0] == "rolled back"


def test_an_agent_may_say_no(garden: Callable[..., Garden]) -> None:
    made = garden(more="updates = false\n")
    with agent(made):
        made.online()
        made.begin()
        assert made.ends() == ("refused", f"updates are turned off on that machine ({FILE})")


def test_what_cannot_be_updated_is_said_at_once(garden: Callable[..., Garden], tmp_path: Path) -> None:
    made = garden(Release(tmp_path / "box", code(tmp_path / "same", version=__version__)))
    with pytest.raises(NotUpdated, match="is away"):
        made.begin()
    with pytest.raises(NotUpdated, match="comes with Flowork"):
        made.fleet.update("")
    with agent(made):
        made.online()
        assert made.now.newer == ""
        with pytest.raises(NotUpdated, match=f"has version {__version__}"):
            made.begin()


def test_the_command_sees_an_update_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole engine, and an agent of an older release on another machine."""
    port = free_port()
    old, folder = code(tmp_path / "old", version="0.0.1"), tmp_path / "shed"
    within = ["env", f"PYTHONPATH={old}", "PYTHONSAFEPATH=1"]
    with Appliance(tmp_path / "FloworkData", environ={"FLOWORK_AGENT_PORT": str(port)}) as appliance:
        made = appliance.json("agent", "pair", "shed")
        folder.mkdir()
        (folder / FILE).write_text("discovery = false\nwell_for = 0.2\n")
        with RemoteAgent(folder, "pair", made["code"], "--appliance", f"127.0.0.1:{port}", within=within) as pairing:
            assert pairing.process.wait(20) == 0
        assert "there is no agent" in appliance.flowork("agent", "update", "attic", check=False).stderr
        away = appliance.flowork("agent", "update", "shed", check=False)
        assert (away.returncode, "is away" in away.stderr) == (1, True)
        assert "no connected agent" in appliance.flowork("agent", "update", "--all").stdout

        def shed() -> dict[str, Any]:
            return next(each for each in appliance.json("agent", "list")["items"] if each["name"] == "shed")

        with RemoteAgent(folder, within=within):
            eventually(lambda: shed()["online"], "the agent")
            assert f"0.0.1 ({__version__} is there)" in appliance.flowork("agent", "list").stdout
            done = appliance.flowork("agent", "update", "shed", "--json")
            (item,) = json.loads(done.stdout)["items"]
            assert (item["name"], item["update"]["phase"], item["update"]["version"]) == (
                "shed",
                "updated",
                __version__,
            )
            assert shed()["version"] == __version__
            again = appliance.flowork("agent", "update", "shed", check=False)
            assert (again.returncode, f"has version {__version__}" in again.stderr) == (1, True)
        assert "agent.update" in {each["action"] for each in appliance.json("audit", "list")["items"]}


# --- packages -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> Package:
    key, _ = certificates.make("engine")
    return package.make(package.code_root(), key, python=(3, 11), requires=[])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.9"}, "is older than 1.0"),
        ({"version": "1.0.0"}, "runs here already"),
        ({"systems": ("plan9",)}, "is for plan9"),
        ({"python": (9, 1)}, "needs Python 9.1, and this machine has 3."),
        ({"requires": (Requirement("msgspec", "99"),)}, "needs msgspec 99, and there is"),
        ({"requires": (Requirement("cryptography", "99.1", ("pdp11",)),)}, ""),
        ({"requires": (Requirement("no-such-driver-library", "1"),)}, ""),
        ({}, ""),
    ],
)
def test_what_fits_and_what_does_not(whole: Package, change: dict[str, Any], words: str) -> None:
    read = package.read(whole.manifest)
    fields = {name: getattr(read, name) for name in read.__struct_fields__} | {"version": "2.0"} | change
    why = package.misfits(package.Manifest(**fields), "1.0")
    assert words in why
    assert bool(words) == bool(why)


def test_a_package_holds_all_of_the_code_and_nothing_else(whole: Package) -> None:
    manifest = package.read(whole.manifest)
    files = dict(package.contents(manifest, whole.payload))
    paths = {file.path for file in files}
    assert {
        "edge_agent/main.py",
        "edge_agent/protocol/package.py",
        "drivers/gpio.py",
        "drivers/support/usb.py",
    } <= paths
    assert all(path.split("/")[0] in package.FOLDERS for path in paths)
    for file, data in files.items():
        assert (package.code_root() / file.path).read_bytes() == data


@pytest.mark.parametrize("path", ["../etc/passwd.py", "/etc/x.py", "edge_agent/../x.py", "drivers/x.sh", "os.py"])
def test_a_package_cannot_write_elsewhere(whole: Package, path: str) -> None:
    read = package.read(whole.manifest)
    fields = {name: getattr(read, name) for name in read.__struct_fields__}
    fields["files"] = (package.File(path, 1, "0" * 64),)
    packed = package.msgspec.msgpack.encode(package.Manifest(**fields))
    with pytest.raises(PackageError, match="do not belong"):
        package.read(packed)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x80", b"x" * (package.LARGEST_MANIFEST + 1)])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        package.read(data)
