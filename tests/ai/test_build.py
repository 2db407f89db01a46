"""Making the model engine: a real pip, against a folder of toys, so that nothing is fetched or compiled for minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from appliance.ai.building import machine, make, place, recipe
from appliance.ai.building.make import CannotBuild, Tools, set_up
from appliance.ai.building.place import Places, Setup, engine_path, read_state
from appliance.ai.building.run import Runner, SetupFailed
from tests.ai import toy_index
from tests.support.broker import eventually

ARM = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\n\nprocessor\t: 1\nFeatures\t: fp asimd crc32\nHardware: x\n"


#: A call of pip takes a second of work, and more where much else goes on.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_index.make(tmp_path_factory.mktemp("index") / "wheels")


@pytest.fixture
def toys(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pip sees nothing but the toys; the file with what the toy compiler was asked for."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("TOY_NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))  # where a wheel of the tests' own would be found
    return tmp_path / "notes"


@pytest.fixture
def fetched(toys: Path, index: Path, tmp_path: Path) -> Path:
    """The same, with tools and source fetched already: each call of pip takes a second."""
    work = Places(tmp_path).work
    for name in ("tools", "source"):
        (work / name).mkdir(parents=True)
        (work / name / "complete").touch()
    with tarfile.open(next(index.glob("llama*.tar.gz"))) as tar:
        tar.extractall(work / "source")
    return toys


class Plenty(Tools):
    """A machine that has all it takes, with two cores."""

    compiler_fault = staticmethod(lambda: "")
    free_disk = staticmethod(lambda folder: 10**10)
    free_memory = staticmethod(lambda: 10**10)
    cores = staticmethod(lambda: 2)


class Small(Plenty):
    free_memory = staticmethod(lambda: make.JOB_MEMORY + 1)


def compiled(data: Path, tools: Tools) -> None:
    """As far as the compilation, and no further."""

    def stop(state: Setup) -> None:
        if state.phase == "libraries":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        set_up(data, stop, tools=tools)


# --- the whole way ---


def test_an_engine_is_compiled_put_together_tried_and_found(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, int, str]] = []
    made = set_up(tmp_path, lambda state: heard.append((state.phase, state.percent, state.text)), tools=Plenty())
    assert (made.kind, made.version, made.portable) == ("llama_cpp", recipe.VERSION, False)
    found = engine_path(tmp_path)
    assert found is not None
    assert (found / "llama_cpp" / "__init__.py").exists()
    monkeypatch.setattr(sys, "path", list(sys.path))
    place.use_engine(tmp_path)
    place.use_engine(tmp_path)
    assert sys.path[-1] == str(found), "behind the program's own libraries, once"
    assert str(found) not in sys.path[:-1]
    assert (found / "onnxruntime").is_dir()
    assert not (found / "lib").exists(), "what the wheel has twice is left out"
    phases = list(dict.fromkeys(phase for phase, _, _ in heard))
    assert phases == ["check", "tools", "source", "compile", "libraries", "try"]
    assert "compiled 3 of 4 files" in [text for _, _, text in heard]
    percents = [percent for _, percent, _ in heard]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert read_state(tmp_path).state == "ready"
    assert [each.name for each in Places(tmp_path).work.iterdir()] == [place.LOG], "what was needed meanwhile is gone"
    jobs, options = toys.read_text().strip().split(" ", 1)
    assert jobs == "2"
    assert "-DLLAMA_SUBPROCESS=OFF" in options
    assert "NATIVE" not in options


def test_once_made_it_is_there_and_from_the_kept_wheel_it_is_made_without_a_compiler(
    fetched: Path, tmp_path: Path
) -> None:
    set_up(tmp_path, tools=Plenty())
    assert set_up(tmp_path, tools=Plenty()).kind == "llama_cpp"
    assert len(fetched.read_text().splitlines()) == 1, "it was compiled once"
    shutil.rmtree(engine_path(tmp_path) or "")

    class NoCompiler(Plenty):
        compiler_fault = staticmethod(lambda: "there is none")

    assert set_up(tmp_path, tools=NoCompiler()).kind == "llama_cpp"
    assert len(fetched.read_text().splitlines()) == 1


def test_a_portable_one_is_another_and_goes_behind_the_native_one(fetched: Path, tmp_path: Path) -> None:
    made = set_up(tmp_path, portable=True, tools=Plenty())
    assert made.portable
    assert "-DGGML_NATIVE=OFF" in fetched.read_text()
    portable = engine_path(tmp_path)
    if recipe.portable_runs():
        assert portable is not None
        assert "portable" in portable.name
    set_up(tmp_path, tools=Plenty())
    native = engine_path(tmp_path)
    assert native is not None
    assert "native" in native.name


def test_a_folder_that_comes_to_another_cpu_has_no_engine_there(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(tmp_path, tools=Plenty())
    monkeypatch.setattr(machine, "cpu_features", lambda: ("asimd",))
    assert engine_path(tmp_path) is None
    state = read_state(tmp_path)
    assert state.state == "none"
    assert "does not fit this machine" in state.text

    made = set_up(tmp_path, tools=NoCompiler())
    assert (made.kind, "sudo apt install g++" in made.lacks) == ("onnx", True), "the other CPU's wheel is of no use"
    found = engine_path(tmp_path)
    assert found is not None
    assert (found / "onnxruntime").is_dir()
    assert not (found / "llama_cpp").exists()
    assert "no language models" in read_state(tmp_path).text
    assert set_up(tmp_path, tools=NoCompiler()) == made


class NoCompiler(Plenty):
    compiler_fault = staticmethod(lambda: "there is no C++ compiler here: sudo apt install g++")


def test_where_nothing_can_be_compiled_a_ready_made_engine_stands_in(
    fetched: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    version = recipe.ready_made().partition("==")[2] or "1.0"
    toy_index.wheel(more, recipe.READY_MADE, version, "class CommonParams: ...")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{index} {more}")
    monkeypatch.setattr(recipe, "portable_runs", lambda features=None: True)
    made = set_up(tmp_path, tools=NoCompiler())
    assert made.kind == "xllamacpp" and made.version == version
    assert "two answers at a time" in made.lacks
    assert "sudo apt install g++; then `flowork models setup --again`" in made.lacks
    found = engine_path(tmp_path)
    assert found is not None and (found / "xllamacpp").is_dir() and (found / "onnxruntime").is_dir()
    assert set_up(tmp_path, tools=NoCompiler()) == made


def test_on_a_cpu_for_which_it_is_not_made_no_ready_made_engine_is_tried(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "portable_runs", lambda features=None: False)
    assert recipe.ready_made() == ""
    assert set_up(tmp_path, tools=NoCompiler()).kind == "onnx"


# --- cut off, failed, refused ---


def test_what_was_cut_off_goes_on_where_it_was(fetched: Path, tmp_path: Path) -> None:
    def cut(state: Setup) -> None:
        if state.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        set_up(tmp_path, cut, tools=Plenty())
    assert read_state(tmp_path).state == "cut"
    assert engine_path(tmp_path) is None
    again: list[tuple[str, str]] = []
    set_up(tmp_path, lambda state: again.append((state.phase, state.text)), tools=Plenty())
    phases = {phase for phase, _ in again}
    assert not phases & {"tools", "source"}, "what was fetched is kept"
    assert not {"compiled 1 of 4 files", "compiled 2 of 4 files"} & {text for _, text in again}
    assert read_state(tmp_path).state == "ready"


def test_one_that_was_killed_is_known_as_cut_off(fetched: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nsys.prefix = sys.argv[1]\n"
        "from appliance.ai.building.make import set_up\n"
        "from tests.ai.test_build import Plenty\n"
        "def tell(state):\n    if state.done == 2: print('half', flush=True); time.sleep(600)\n"
        "set_up(Path(sys.argv[1]), tell, tools=Plenty())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        assert read_state(tmp_path).state == "running"
        with pytest.raises(place.UnderWay):
            set_up(tmp_path, tools=Plenty())
        process.kill()
    eventually(lambda: not place.under_way(tmp_path), "its children have ended with it")
    assert read_state(tmp_path).state == "cut"


def test_out_of_memory_it_goes_on_with_one_file_at_a_time(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_BUILD", "memory")
    compiled(tmp_path, Plenty())
    assert [line.split()[0] for line in fetched.read_text().splitlines()] == ["2", "1"]


def test_a_compiler_error_is_said_with_its_line(fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_BUILD", "fail")
    with pytest.raises(SetupFailed, match="expected expression"):
        set_up(tmp_path, tools=Plenty())
    state = read_state(tmp_path)
    assert (state.state, "expected expression" in state.text) == ("failed", True)
    assert "expected expression" in Places(tmp_path).log.read_text()


def test_little_memory_means_one_file_at_a_time(fetched: Path, tmp_path: Path) -> None:
    compiled(tmp_path, Small())
    assert fetched.read_text().split()[0] == "1"


@pytest.mark.parametrize(
    ("lacking", "portable", "words"),
    [
        ({"compiler_fault": staticmethod(lambda: "there is no C++ compiler here")}, True, "no C\\+\\+ compiler"),
        ({"free_disk": staticmethod(lambda folder: 10**8)}, False, "100 MB are left on the disk; 400 MB"),
        ({"free_memory": staticmethod(lambda: 10**8)}, True, "100 MB of memory are free"),
    ],
)
def test_a_machine_that_cannot_says_why(
    fetched: Path, tmp_path: Path, lacking: dict[str, object], portable: bool, words: str
) -> None:
    tools = type("Lacking", (Plenty,), lacking)()
    with pytest.raises(CannotBuild, match=words):
        set_up(tmp_path, tools=tools, portable=portable)
    assert read_state(tmp_path).state == "refused"
    assert not fetched.exists()


# --- parts ---


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path) -> None:
    assert machine.compiler_fault(path=str(tmp_path)) == "there is no C++ compiler here: sudo apt install g++"
    for name in ("cc", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'cannot find vector' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    assert "cannot find vector" in machine.compiler_fault(path=str(tmp_path))
    for name in ("cc", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
    assert machine.compiler_fault(path=str(tmp_path)) == ""


def test_what_every_core_has_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(ARM)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.cpu_features(tmp_path / "cpuinfo") == ("asimd", "crc32", "fp")
    assert machine.cpu_features(tmp_path / "nowhere") == ()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512f hypervisor ibpb sse4_2 fma\n")
    assert machine.cpu_features(tmp_path / "cpuinfo") == ("avx2", "avx512f", "fma", "sse4_2")


def test_names_hold_what_the_result_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = recipe.wheel_key(portable=False, features=["avx2"]), recipe.wheel_key(portable=False, features=[])
    assert one != other
    assert recipe.wheel_key(portable=True, features=["avx2"]) == recipe.wheel_key(portable=True, features=[])
    before = recipe.engine_key(one)
    monkeypatch.setattr(recipe, "pins", lambda: ["numpy==1.0"])
    assert recipe.engine_key(one) != before
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert recipe.portable_runs(["avx", "avx2", "fma", "f16c", "bmi2", "sse4_2", "avx512f"])
    assert not recipe.portable_runs(["sse4_2"])
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert recipe.portable_runs([])


def test_the_extra_is_read_from_the_checkout_and_pinned() -> None:
    names = {line.partition(">")[0] for line in recipe.requirements()}
    assert {"onnxruntime", "tokenizers", "numpy", "pillow"} <= names
    assert {line.partition("==")[0] for line in recipe.pins()} == names


def test_objects_that_a_power_cut_may_have_spoilt_are_made_again(tmp_path: Path) -> None:
    now = time.time()
    for name, content, age in (("old.o", b"\x7fELF1", 300), ("new.o", b"\x7fELF2", 0), ("empty.o", b"", 300)):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / "boot").write_text("this boot")
    make.drop_unsure(tmp_path, "this boot")
    assert {path.name for path in tmp_path.glob("*.o")} == {"old.o", "new.o"}, "only what cannot be an object"
    make.drop_unsure(tmp_path, "the next boot")
    assert {path.name for path in tmp_path.glob("*.o")} == {"old.o"}


def test_a_program_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    script = "sleep 600 & echo $!; wait"
    log = tmp_path / "log"
    with place.turn(tmp_path) as lock, pytest.raises(KeyboardInterrupt):
        Runner(log, lock).run(["sh", "-c", script], what="it", on_line=stop)
    pid = int(log.read_text().splitlines()[-1])
    eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1])
    assert not place.under_way(tmp_path)
