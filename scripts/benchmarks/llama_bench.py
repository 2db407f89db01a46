"""llama.cpp's own llama-bench as the reference: compiled once from the source package, run with the engine's libraries.

Only the program itself is compiled, some sixty files in about two minutes on two cores; the libraries are those that
llama-cpp-python brought, so that both measure the same code. What was made is kept in the temporary folder. Without a
compiler or the source package there is no reference, and the figures that need one are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import llama_cpp

#: llama.cpp's tools want its libraries as targets of the same build; here they are those of the installed package.
_BUILD = """\
cmake_minimum_required(VERSION 3.21)
project(reference C CXX)
set(BUILD_SHARED_LIBS OFF)
set(LLAMA_BUILD_COMMON ON)
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMIT "")
find_package(Threads REQUIRED)
list(APPEND CMAKE_MODULE_PATH "${SOURCE}/cmake")
function(llama_add_compile_flags)
endfunction()
function(license_add_file)
endfunction()
foreach(name ggml-base ggml-cpu ggml llama)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${LIBRARIES}/lib${name}.so")
endforeach()
target_link_libraries(llama INTERFACE ggml ggml-base ggml-cpu)
include_directories("${SOURCE}/include" "${SOURCE}/ggml/include")
add_subdirectory("${SOURCE}/vendor" vendor)
add_subdirectory("${SOURCE}/common" common)
add_subdirectory("${SOURCE}/tools/llama-bench" llama-bench)
"""
_LIBRARIES = Path(llama_cpp.__file__).parent / "lib"


def source() -> Path | None:
    """llama.cpp's source as the package's own release has it, unpacked; None where pip cannot fetch it."""
    kept = Path(tempfile.gettempdir()) / f"flowork-bench-source-{llama_cpp.__version__}"
    if not (kept / "complete").exists():
        shutil.rmtree(kept, ignore_errors=True)
        package = f"llama-cpp-python=={llama_cpp.__version__}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(kept)]
        if subprocess.run([*command, package], check=False, capture_output=True, timeout=600).returncode:
            return None
        (archive,) = kept.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(kept)
        archive.unlink()
        (kept / "complete").touch()
    return next(kept.glob("*/vendor/llama.cpp"))


class Reference:
    """llama-bench. ``program`` is None where it could not be made; ``why`` says why."""

    def __init__(self) -> None:
        self.why = ""
        self.program = self._made()

    def _made(self) -> Path | None:
        folder = Path(tempfile.gettempdir()) / f"flowork-bench-llama-bench-{llama_cpp.__version__}"
        program = folder / "build" / "llama-bench" / "llama-bench"
        if program.exists():
            return program
        found = source()
        if found is None or shutil.which("cmake") is None or shutil.which("c++") is None:
            self.why = "it takes the source package of llama-cpp-python, CMake and a C++ compiler"
            return None
        folder.mkdir(exist_ok=True)
        (folder / "CMakeLists.txt").write_text(_BUILD)
        print("… compiling llama-bench (once)", file=sys.stderr, flush=True)
        configure = ["cmake", "-S", str(folder), "-B", str(folder / "build"), "-DCMAKE_BUILD_TYPE=Release"]
        configure += [f"-DSOURCE={found}", f"-DLIBRARIES={_LIBRARIES}"]
        build = ["cmake", "--build", str(folder / "build"), "--target", "llama-bench", "-j", str(os.cpu_count())]
        for command in (configure, build):
            ran = subprocess.run(command, check=False, capture_output=True, text=True)
            if ran.returncode:
                self.why = (ran.stderr or ran.stdout).strip().splitlines()[-1][:200]
                return None
        return program

    def speed(self, model: Path, *, prompt: int = 0, answer: int = 0, threads: int) -> float:
        """Tokens a second: of a prompt of so many tokens, or of so many written one by one behind an empty one."""
        assert self.program is not None
        command = [str(self.program), "-m", str(model), "-p", str(prompt), "-n", str(answer), "-t", str(threads)]
        command += ["-r", "1", "-o", "json"]
        environ = {**os.environ, "LD_LIBRARY_PATH": str(_LIBRARIES)}
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
        return float(json.loads(ran.stdout)[0]["avg_ts"])
