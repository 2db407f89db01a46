"""What an engine is made of, and the names under which what was made is kept.

A name holds everything that the result depends on, so that nothing is ever used where it does not fit: an engine for
another CPU would die of an illegal instruction.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.ai.building import machine

#: Exactly the version that the model host was written for: the layout of its structures follows each release.
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
#: What stands in for it where nothing can be compiled: ready-made, without batches, adapters and kept beginnings.
READY_MADE = "xllamacpp"
#: Without what nobody uses here: reading videos by a program that would have to be there.
_SLIM = ("-DLLAMA_SUBPROCESS=OFF",)
#: For images and for other machines: any 64-bit ARM (slower), any x86-64 of the last ten years.
_PORTABLE = ("-DGGML_NATIVE=OFF",)
#: What llama.cpp takes for granted on x86-64 then.
_PORTABLE_NEEDS = {"x86_64": frozenset({"sse4_2", "avx", "avx2", "bmi2", "f16c", "fma"})}
#: Read by CMake behind llama.cpp's own options, which would else be forced on. Its tools are left out. What sees
#: pictures knows 45 kinds of models, a file each, and reads the same headers for each: together they take 6 s, not 60.
#: The tiles of new server CPUs (AMX) are left alone: there this release, compiled by GCC 12, dies of an illegal
#: instruction (tilezero) in the first step of a quantized model. Flash attention goes in tiles from 8 tokens on, not
#: from 64 (docs/decisions/model-engine.md): what follows a kept beginning is short, and one by one takes twice as long.
INCLUDE = """\
set(LLAMA_BUILD_COMMON OFF)
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mno-amx-tile FLOWORK_KNOWS_TILES)
if(FLOWORK_KNOWS_TILES)
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
set(ops "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/ops.cpp")
file(READ "${ops}" code)
string(FIND "${code}" "neq1 >= 8)" done)
if(done EQUAL -1)
  string(REPLACE "neq1 >= Q_TILE_SZ)" "neq1 >= 8)" tiled "${code}")
  if(tiled STREQUAL code)
    message(FATAL_ERROR "flash attention is not where this recipe expects it")
  endif()
  file(WRITE "${ops}" "${tiled}")
endif()
function(flowork_together)
  get_target_property(folder mtmd SOURCE_DIR)
  get_target_property(alone mtmd SOURCES)
  list(FILTER alone EXCLUDE REGEX "^models/")
  list(TRANSFORM alone PREPEND "${folder}/")
  set_source_files_properties(${alone} TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 100)
endfunction()
cmake_language(DEFER CALL flowork_together)
"""
#: What compiling takes: the package's own build system, and where the machine has none of the right age, its programs.
BUILD_SYSTEM = "scikit-build-core>=0.9.2"
BUILD_PROGRAMS = ("cmake", "ninja")
_CHECKOUT = Path(__file__).resolve().parents[3]
_EXTRA = "models"


def options(*, portable: bool) -> tuple[str, ...]:
    """The options of CMake."""
    return (*_SLIM, *(_PORTABLE if portable else ()))


def portable_runs(features: Sequence[str] | None = None) -> bool:
    """Whether an engine that was made ``portable`` runs on this CPU; ``features`` instead of its own."""
    found = machine.cpu_features() if features is None else features
    return _PORTABLE_NEEDS.get(platform.machine(), frozenset()) <= set(found)


def wheel_key(*, portable: bool, features: Sequence[str] | None = None) -> str:
    """The name for the compiled wheel; ``features`` instead of this machine's."""
    found = () if portable else machine.cpu_features() if features is None else tuple(features)
    kind = "portable" if portable else "native"
    mark = _mark([VERSION, options(portable=portable), INCLUDE, found])
    return f"{VERSION}-{platform.machine()}-{kind}-{mark}"


def ready_made() -> str:
    """The ready-made engine, as pip wants it; empty where it would not run. Its wheels take what `portable` takes."""
    pinned = constraints()
    lines = pinned.read_text().splitlines() if pinned is not None else []
    found = next((line for line in lines if _name(line) == READY_MADE), READY_MADE)
    return found if portable_runs() else ""


def onnx_key() -> str:
    """The name in a wheel's place where there is none."""
    return f"onnx-{platform.machine()}"


def engine_key(wheel: str) -> str:
    """The name for the folder with everything: the wheel, and the libraries for this Python."""
    return f"{wheel}-cp{sys.version_info[0]}{sys.version_info[1]}-{_mark([requirements(), pins()])}"


def requirements() -> list[str]:
    """The libraries that models need: the extra ``models`` of setup.cfg."""
    import configparser
    import importlib.metadata

    path = _CHECKOUT / "setup.cfg"
    if path.is_file():
        config = configparser.ConfigParser()
        config.read(path)
        lines = config["options.extras_require"][_EXTRA].splitlines()
        return sorted(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    marker = f'; extra == "{_EXTRA}"'
    found = importlib.metadata.requires("flowork") or []
    return sorted(line.removesuffix(marker).strip() for line in found if line.endswith(marker))


def constraints() -> Path | None:
    """The pinned versions: those of the checkout, or those that the installer put beside the program."""
    places = (_CHECKOUT / "constraints.txt", Path(sys.prefix, "constraints.txt"))
    return next((place for place in places if place.is_file()), None)


def pins() -> list[str]:
    """The pinned versions of what models need themselves; a new pin of anything else is no reason for a new engine."""
    path = constraints()
    if path is None:
        return []
    names = {_name(line) for line in requirements()}
    return sorted(line for line in path.read_text().splitlines() if _name(line) in names)


def _name(requirement: str) -> str:
    for at, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:at].lower().replace("_", "-")
    return requirement.lower().replace("_", "-")


def _mark(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:10]
