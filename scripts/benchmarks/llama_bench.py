"""llama.cpp's own llama-bench as the reference: compiled once from the source package, run with the engine's libraries.

Four files of the program itself are compiled, half a minute's work; the libraries are those that llama-cpp-python
brought, so that both measure the same code. What was made is kept in the temporary folder. Without a compiler or the
source package there is no reference, and the figures that need one are left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import llama_cpp

_FILES = ("tools/llama-bench/main.cpp", "tools/llama-bench/llama-bench.cpp", "common/common.cpp", "common/log.cpp")
_HEADERS = ("include", "ggml/include", "common", "vendor")
#: What a build of llama.cpp writes about itself; llama-bench prints it.
_ABOUT = """\
#include "build-info.h"
int llama_build_number(void) { return 0; }
const char * llama_commit(void) { return ""; }
const char * llama_compiler(void) { return ""; }
const char * llama_build_target(void) { return ""; }
const char * llama_build_info(void) { return ""; }
void llama_print_build_info(const char *, FILE *) {}
"""
_LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
#: Downloads, chat templates and samplers are fifty more files. They are left out, for no call of ours comes there: what
#: refers to them stays open (with a fixed address, for a linker cannot leave a call open in a movable program).
_LINK = ("-no-pie", "-Wl,--unresolved-symbols=ignore-all", f"-Wl,-rpath,{_LIBRARIES}", f"-L{_LIBRARIES}")
_WITH = ("-lllama", "-lggml", "-lggml-base", "-lggml-cpu", "-lpthread")
#: Seconds for a program that fetches or compiles, and for one measurement, however busy the machine is.
_PATIENCE, _MEASURING = 900, 300


def source() -> Path | None:
    """llama.cpp's source as the package's own release has it, unpacked; None where pip cannot fetch it."""
    kept = Path(tempfile.gettempdir()) / f"flowork-bench-source-{llama_cpp.__version__}"
    if not (kept / "complete").exists():
        shutil.rmtree(kept, ignore_errors=True)
        package = f"llama-cpp-python=={llama_cpp.__version__}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(kept)]
        if _fault([*command, package]):
            return None
        (archive,) = kept.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(kept)
        archive.unlink()
        (kept / "complete").touch()
    return next(kept.glob("*/vendor/llama.cpp"))


class Reference:
    """llama-bench. ``program`` is None where it could not be made or has failed; ``why`` says why."""

    def __init__(self) -> None:
        self.why = ""
        self.program = self._made()

    def _made(self) -> Path | None:
        program = Path(tempfile.gettempdir()) / f"flowork-bench-llama-bench-{llama_cpp.__version__}"
        if program.is_file():
            return program
        found = source()
        if found is None or shutil.which("c++") is None:
            self.why = "it takes the source package of llama-cpp-python and a C++ compiler"
            return None
        print("… compiling llama-bench (once)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            about, draft = Path(folder, "about.cpp"), Path(folder, "llama-bench")
            about.write_text(_ABOUT)
            files = [*(found / file for file in _FILES), about]
            compiling = ["c++", "-std=c++17", "-O2", "-c", *(f"-I{found / header}" for header in _HEADERS)]
            commands = [[*compiling, str(file), "-o", f"{folder}/{file.stem}.o"] for file in files]
            commands.append(["c++", *(f"{folder}/{file.stem}.o" for file in files), *_LINK, *_WITH, "-o", str(draft)])
            for command in commands:
                if fault := _fault(command):
                    self.why = fault
                    return None
            shutil.move(draft, program)
        return program

    def speed(self, model: Path, *, prompt: int = 0, answer: int = 0, threads: int) -> float | None:
        """Tokens a second: of a prompt of so many tokens, or of so many written one by one behind an empty one.

        None without a ``program``, and from then on if it fails.
        """
        if self.program is None:
            return None
        command = [str(self.program), "-m", str(model), "-p", str(prompt), "-n", str(answer), "-t", str(threads)]
        command += ["-r", "1", "-o", "json"]
        try:
            ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_MEASURING)
            return float(json.loads(ran.stdout)[0]["avg_ts"])
        except (OSError, subprocess.SubprocessError, ValueError, LookupError) as exc:
            self.program, self.why = None, f"it failed: {exc}"[:200]
            return None


def _fault(command: Sequence[str]) -> str:
    """Run a program that makes something; empty if that went well, else what it says."""
    try:
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError) as exc:
        return f"{exc}"[:200]
    if not ran.returncode:
        return ""
    lines = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), f"{command[0]} ended with {ran.returncode}")[:200]
