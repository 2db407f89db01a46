"""``set_up``: makes the engine step by step. Each step is kept, so that a power cut costs the step under way at most
(of the compilation: the files under way).
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.ai.building import machine, place, recipe
from appliance.ai.building.place import COMPLETE, Complete, Places, Setup
from appliance.ai.building.run import Killed, Runner, SetupFailed
from appliance.contracts import FlowError

Tell = Callable[[Setup], None]

#: Bytes. Measured on x86-64 with GCC 12: a file takes 464 MB at most to compile. Beside the program that waits for it.
JOB_MEMORY = 500_000_000
#: Bytes: source 295 MB, tools 92 MB, objects 21 MB, what pip keeps meanwhile 150 MB; and what stays, 260 MB.
DISK_TO_COMPILE = 900_000_000
DISK_TO_INSTALL = 400_000_000
#: What helps once the machine can compile.
_AGAIN = "; then `flowork models setup --again`"
#: What of the whole each step takes, in percent at its end.
_ENDS = {"check": 1, "tools": 4, "source": 10, "compile": 88, "libraries": 97, "try": 100}
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
#: Seconds before the newest object at a power cut in which the disk may hold an object's name and not its content.
_UNSURE = 45.0
_ELF = b"\x7fELF"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TRY = "import onnxruntime, tokenizers, PIL"
_TRY_READY = "; import xllamacpp; xllamacpp.CommonParams()"
_TRY_LLAMA = "; import llama_cpp, llama_cpp.mtmd_cpp; llama_cpp.llama_backend_init(); print(llama_cpp.__version__)"


class CannotBuild(FlowError):
    """This machine cannot make a model engine."""

    id = "cannot-build"
    retryable = False


class Tools:
    """What the machine offers; replaced as a whole by tests."""

    compiler_fault = staticmethod(machine.compiler_fault)
    free_disk = staticmethod(machine.free_disk)
    cores = staticmethod(machine.cores)

    free_memory = staticmethod(machine.free_memory)


def set_up(
    data: Path,
    tell: Tell = lambda state: None,
    *,
    portable: bool = False,
    again: bool = False,
    tools: Tools | None = None,
    now: Callable[[], float] = time.time,
) -> Complete:
    """Make the engine if it is not there, or ``again``. Raises ``CannotBuild``, ``SetupFailed``, ``UnderWay``.

    On a machine that cannot compile, a ready-made engine is installed that can less, or where there is none for it only
    what runs ONNX models: ``lacks`` of the answer says so.
    ``tell`` hears of every step. What was half made is gone on with. KeyboardInterrupt cuts it off cleanly. With
    ``portable`` it runs on other machines too, and is slower.
    """
    facts = None if again else place.made(data, portable=portable)
    if facts is not None:
        return facts
    with place.turn(data) as lock:
        return _Making(data, tell, lock, portable, tools or Tools(), now).run(again)


def wheel_into(folder: Path, tell: Tell = lambda state: None, *, portable: bool = False) -> Path:
    """The compiled wheel alone, in ``folder/<key>``: for the tests, and for images. Raises as ``set_up``."""
    key = recipe.wheel_key(portable=portable)
    found = sorted((folder / key).glob("*.whl"))
    if found:
        return found[0]
    scratch = folder / "data"
    with place.turn(scratch) as lock:
        making = _Making(scratch, tell, lock, portable, Tools(), time.time)
        making.check(DISK_TO_COMPILE)
        wheel = making.compiled()
        (folder / key).mkdir(parents=True, exist_ok=True)
        kept = shutil.move(wheel, folder / key / wheel.name)
    shutil.rmtree(scratch)
    return Path(kept)


class _Making:
    def __init__(
        self, data: Path, tell: Tell, lock: int, portable: bool, tools: Tools, now: Callable[[], float]
    ) -> None:
        self._data = data
        self._tell = tell
        self._places = Places(data)
        self._runner = Runner(self._places.log, lock)
        self._tools = tools
        self._now = now
        self._portable = portable
        self._wheel_key = recipe.wheel_key(portable=portable)
        self._key = recipe.engine_key(self._wheel_key)
        before = place.read_state(data)
        total = before.total if before.key == self._key else 0  # Ninja counts only what is left
        self._state = Setup(state="running", key=self._key, began=now(), portable=portable, total=total)

    def run(self, again: bool) -> Complete:
        try:
            if again:
                shutil.rmtree(self._places.engine(self._key), ignore_errors=True)
                shutil.rmtree(self._places.wheels / self._wheel_key, ignore_errors=True)
            made = self._made(again)
            self._clean()
        except CannotBuild as exc:
            self._end("refused", exc.message)
            raise
        except KeyboardInterrupt:
            self._end("cut", "it was cut off, and goes on where it was")
            raise
        except FlowError as exc:
            self._end("failed", exc.message)
            raise
        self._end("ready", made.lacks or f"ready, after {self._now() - self._state.began:.0f} s")
        return made

    def _made(self, again: bool) -> Complete:
        wheel = None if again else self._places.kept_wheel(self._wheel_key)
        try:
            self.check(DISK_TO_INSTALL if wheel else DISK_TO_COMPILE)
        except CannotBuild as exc:
            if self._portable:
                raise
            return self._without_llama(exc.message)
        return self._install(wheel or self.compiled())

    def _without_llama(self, why: str) -> Complete:
        """What needs no compiler: ready-made wheels for language models, if there are any for this machine, and for
        ONNX models (vectors, classes, objects).
        """
        self._key = recipe.engine_key(recipe.onnx_key())
        there = place.facts_of(self._places.engine(self._key))
        if there is not None:
            return there
        self.check(DISK_TO_INSTALL)
        if ready := recipe.ready_made():
            try:
                return self._install(None, f"ready-made, so slower, two answers at a time: {why}{_AGAIN}", ready)
            except SetupFailed as exc:
                self._begin("libraries", f"there is no ready-made engine for this machine: {exc.message}")
        return self._install(None, f"it runs ONNX models, and no language models: {why}{_AGAIN}")

    # --- how it goes -------------------------------------------------------------------------------

    def _begin(self, phase: str, text: str) -> None:
        names = list(_ENDS)
        at = names.index(phase)
        self._state.phase, self._state.text = phase, text
        self._state.percent = _ENDS[names[at - 1]] if at else 0
        self._note(keep=True)

    def _note(self, *, keep: bool) -> None:
        if keep:
            place.write_state(self._data, self._state)
        self._tell(self._state)

    def _end(self, state: place.State, text: str) -> None:
        self._state.state, self._state.text, self._state.ended = state, text, self._now()
        self._state.percent = 100 if state == "ready" else self._state.percent
        self._note(keep=True)

    # --- the steps ---------------------------------------------------------------------------------

    def check(self, disk: int) -> None:
        """Raises ``CannotBuild`` for a machine that has not what it takes."""
        self._places.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._begin("check", "looking whether this machine can do it")
        free = self._tools.free_disk(self._places.work)
        if free < disk:
            raise CannotBuild(f"{free // 1_000_000} MB are left on the disk; {disk // 1_000_000} MB are needed")
        if disk < DISK_TO_COMPILE:
            return
        if fault := self._tools.compiler_fault():
            raise CannotBuild(fault)
        free = self._tools.free_memory()
        if free < JOB_MEMORY:
            raise CannotBuild(
                f"{free // 1_000_000} MB of memory are free, and compiling takes {JOB_MEMORY // 1_000_000} MB: end "
                "other programs or add swap, or make the engine elsewhere (`flowork models setup --portable`) and copy "
                "models/engine"
            )

    def compiled(self) -> Path:
        """The wheel, compiled."""
        self._get_tools()
        self._get_source()
        wheel = self._compile()
        kept = self._places.wheels / self._wheel_key
        kept.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, kept / wheel.name))

    def _get_tools(self) -> None:
        folder = self._places.work / "tools"
        if not (folder / "complete").exists():
            self._begin("tools", "fetching CMake, Ninja and the build system")
            shutil.rmtree(folder, ignore_errors=True)
            self._pip("install", "--target", str(folder), recipe.BUILD_SYSTEM, *recipe.BUILD_PROGRAMS, what="tools")
            (folder / "complete").touch()

    def _get_source(self) -> None:
        folder = self._places.work / "source"
        if (folder / "complete").exists():
            return
        self._begin("source", "fetching the source of llama.cpp")
        shutil.rmtree(folder, ignore_errors=True)
        fetched = self._places.work / "fetched"
        only = ["--no-deps", "--no-build-isolation", "--no-binary", recipe.PACKAGE]
        self._pip("download", *only, "--dest", str(fetched), f"{recipe.PACKAGE}=={recipe.VERSION}", what="source")
        (archive,) = fetched.glob("*.tar.gz")
        self._begin("source", "unpacking the source of llama.cpp")
        with tarfile.open(archive) as tar:
            # Python 3.11.2, which Debian 12 has, knows no filters yet.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            tar.extractall(folder)  # noqa: S202 - what is unpacked is run anyway
        shutil.rmtree(fetched)
        (folder / "complete").touch()

    def _compile(self) -> Path:
        (source,) = (each for each in (self._places.work / "source").iterdir() if each.is_dir())
        build, out = self._places.work / f"build-{self._wheel_key}", self._places.work / "wheel"
        build.mkdir(exist_ok=True)
        drop_unsure(build, _BOOT_ID.read_text())
        include = self._places.work / "options.cmake"
        if not include.exists() or include.read_text() != recipe.INCLUDE:  # its time makes CMake begin anew
            include.write_text(recipe.INCLUDE)
        jobs = max(1, min(self._tools.cores(), self._tools.free_memory() // JOB_MEMORY))
        arguments = ["--no-deps", "--no-build-isolation", "-v", "--wheel-dir", str(out)]
        arguments += [f"--config-settings=build-dir={build}", str(source)]
        while True:
            self._begin("compile", f"compiling llama.cpp for this machine, {jobs} at once")
            environ = {
                "CMAKE_ARGS": " ".join(
                    [*recipe.options(portable=self._portable), f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={include}"]
                ),
                "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
            }
            try:
                self._pip("wheel", *arguments, what="compiling", environ=environ, on_line=self._count)
            except Killed:
                if jobs == 1:
                    raise
                jobs = 1  # what is compiled already stays
                continue
            (wheel,) = out.glob("*.whl")
            return wheel

    def _count(self, line: str) -> None:
        """Ninja's ``[12/83]``; when it goes on, it counts only what is left."""
        found = _STEP.match(line)
        if found is None:
            return
        at, left = int(found[1]), int(found[2])
        state = self._state
        state.total = max(state.total, left)
        state.done = state.total - left + at
        before = state.percent
        begin, end = _ENDS["source"], _ENDS["compile"]
        state.percent = begin + (end - begin) * state.done // state.total
        if state.percent != before:
            state.text = f"compiled {state.done} of {state.total} files"
            self._note(keep=True)

    def _install(self, wheel: Path | None, lacks: str = "", ready: str = "") -> Complete:
        """Put the engine's folder together, try it, and give it its name."""
        self._begin("libraries", "fetching the libraries for models")
        half = self._places.work / "engine"
        shutil.rmtree(half, ignore_errors=True)
        pinned = recipe.constraints()
        bound = ["-c", str(pinned)] if pinned else []
        wanted = [*([str(wheel)] if wheel else []), *recipe.requirements()]
        if ready:
            wanted += [ready, "--only-binary", recipe.READY_MADE]
        self._pip("install", "--target", str(half), *bound, *wanted, what="libraries")
        # The wheel has its libraries twice.
        for double in ("lib", "include", "bin"):
            shutil.rmtree(half / double, ignore_errors=True)
        self._begin("try", "trying the engine")
        # Without the program's own libraries: what is tried is this folder.
        code = (
            f"import sys; sys.path.append({str(half)!r}); {_TRY}{_TRY_LLAMA if wheel else _TRY_READY if ready else ''}"
        )
        self._runner.python("-IS", "-c", code, what="the engine does not start")
        seconds = round(self._now() - self._state.began, 1)
        made = Complete(
            kind="llama_cpp" if wheel else "xllamacpp" if ready else "onnx",
            version=recipe.VERSION if wheel else ready.partition("==")[2],
            portable=self._portable,
            seconds=seconds,
            lacks=lacks,
        )
        os.sync()
        final = self._places.engine(self._key)
        shutil.rmtree(final, ignore_errors=True)
        half.rename(final)
        (final / COMPLETE).write_bytes(msgspec.json.encode(made))
        os.sync()
        return made

    def _clean(self) -> None:
        """Away with everything but the log, the wheels, and the engine that is used from now on."""
        for each in self._places.work.iterdir():
            if each != self._places.log:
                shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink()
        for each in self._places.root.iterdir():
            old = each.name.startswith((self._wheel_key, recipe.onnx_key())) and each.name != self._key
            if old and (each / COMPLETE).exists():
                shutil.rmtree(each, ignore_errors=True)

    def _pip(
        self, command: str, *arguments: str, what: str, environ: dict[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        tools = self._places.work / "tools"
        # Where temporary files lie is a small disk in memory on many boards.
        scratch = self._places.work / "tmp"
        scratch.mkdir(exist_ok=True)
        full = {
            "PYTHONPATH": str(tools),
            "PATH": f"{tools / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": str(scratch),
            "PIP_CACHE_DIR": str(self._places.work / "pip"),
            **(environ or {}),
        }
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        quiet = quiet if command != "wheel" else quiet[:2]
        self._runner.python("-m", "pip", command, *quiet, *arguments, what=what, environ=full, on_line=on_line)


def drop_unsure(build: Path, boot: str) -> None:
    """After a power cut an object may have its name and not its content, and Ninja would believe it: away with it.

    ``boot`` is the id of this boot.
    """
    mark = build / "boot"
    same = mark.exists() and mark.read_text() == boot
    objects = [path for path in build.rglob("*.o") if path.is_file()]
    newest = max((path.stat().st_mtime for path in objects), default=0.0)
    for path in objects:
        with path.open("rb") as file:
            whole = file.read(4) == _ELF
        if not whole or (not same and path.stat().st_mtime > newest - _UNSURE):
            path.unlink()
    mark.write_text(boot)
