"""``python -m appliance.ai.host.llama.quantize IN.gguf OUT.gguf TYPE [THREADS]``: a model's weights in fewer bits.

A process of its own, since llama.cpp ends the process on some faults. Exit code 0 if the file is whole and in its
place; otherwise a line on standard error says why.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from appliance.ai.host.llama import ggufs, native
from appliance.contracts import ConfigError


def types() -> dict[str, int]:
    """All types that llama.cpp has, by their names in lower case (``q4_k_m``)."""
    prefix, found = "LLAMA_FTYPE_", dict[str, int]()
    for name in dir(native.lib):
        if name.startswith(prefix) and isinstance(value := getattr(native.lib, name), int):
            found[name.removeprefix(prefix).removeprefix("MOSTLY_").removeprefix("ALL_").lower()] = value
    found.pop("guessed", None)
    return found


def quantize(source: Path, target: Path, kind: str, threads: int = 0) -> None:
    """Raises ``ValueError`` for a type that there is not, ``OSError`` if llama.cpp cannot do it."""
    known = types()
    if kind.lower() not in known:
        raise ValueError(f"there is no type {kind!r}; known are {', '.join(sorted(known))}")
    try:
        facts = ggufs.read(source)
    except ConfigError as exc:
        raise OSError(exc.message) from None
    if facts.is_adapter:
        raise OSError(
            f"{source.name} is a LoRA adapter, which stays as it is: `flowork train merge` works it into its model"
        )
    params = native.lib.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = known[kind.lower()]
    params.allow_requantize = True
    unfinished = target.with_name(f"{target.name}.part")
    failed = native.lib.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params))
    if failed:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{source.name} could not be quantized to {kind}")
    unfinished.rename(target)


def main(words: list[str]) -> int:
    try:
        quantize(Path(words[0]), Path(words[1]), words[2], int(words[3]) if len(words) > 3 else 0)
    except IndexError:
        sys.stderr.write(__doc__ or "")
        return 2
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
