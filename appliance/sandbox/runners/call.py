"""A warm Python that calls functions of our own nodes, for libraries that block or need much memory.

Arguments: the folders to import from, parted by colons, then descriptors as those of python.py: requests (4 bytes
length, big-endian, then JSON), replies (JSON) and ends (a line per call).
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from typing import Any


def answer(module: str, function: str, arguments: Any) -> dict[str, Any]:
    """What the function returned, or its error in a form that can be raised again elsewhere."""
    try:
        found = importlib.import_module(module)
        target = getattr(found, function, None)
        if getattr(target, "__module__", None) != module or not callable(target):
            return _error("ConfigError", f"{module} has no function {function}", False, None)
        value = target(arguments)
        json.dumps(value)
        return {"ok": True, "value": value}
    except Exception as exc:
        traceback.print_exc()
        kind = type(exc).__name__
        if hasattr(exc, "retryable") and hasattr(exc, "message"):  # one of contracts' errors
            return _error(kind, str(exc), bool(exc.retryable), getattr(exc, "detail", None))
        return _error("NodeError", f"{kind}: {exc}" if str(exc) else kind, None, None)


def _error(kind: str, message: str, retryable: bool | None, detail: Any) -> dict[str, Any]:
    return {"ok": False, "kind": kind, "message": message, "retryable": retryable, "detail": detail}


def _bound_cpu(seconds: int) -> None:
    """The soft limit counts all that this process has ever used; 0 lifts it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds if seconds > 0 else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(0)  # the engine is gone
        data += part
    return data


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def main() -> None:
    sys.path += [folder for folder in sys.argv[1].split(os.pathsep) if folder not in sys.path]
    requests, replies, ends = (int(argument) for argument in sys.argv[2:5])
    while True:
        size = int.from_bytes(_read(requests, 4), "big")
        job = json.loads(_read(requests, size))
        _bound_cpu(job["cpu"])
        reply = answer(job["module"], job["function"], job["arguments"])
        sys.stdout.flush()
        _write(replies, json.dumps(reply, default=str).encode())
        _write(ends, b"0 1\n")


if __name__ == "__main__":
    main()
