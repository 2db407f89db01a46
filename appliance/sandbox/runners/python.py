"""A warm Python that forks itself for every script, so that a call costs a fork and leaves nothing.

Arguments: descriptors of requests (4 bytes length, big-endian, then JSON), of the reply (JSON of one call)
and of the ends (a line ``STATUS CLEAN`` per call), whether the IPC namespace is ``private`` or ``shared``, then the
folders to empty after each call and, first among them, the one to start in.

A script sees ``payload``. What it returns, or leaves in ``result``, is its output.
"""

from __future__ import annotations

import ast
import gc
import importlib
import io
import linecache
import os
import sys
import traceback
import types
from json import dumps, loads  # by name: a script may change the module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.sandbox.runners import reap
else:  # started as a file, by an interpreter that may know nothing of us
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import reap

    del sys.path[0]

FILE = "script.py"


def compile_script(code: str) -> types.CodeType:
    """A module that defines ``__script__(payload)`` with the code as its body, line numbers kept."""
    body = ast.parse(code, FILE).body
    head = [line for line in body if isinstance(line, ast.ImportFrom) and line.module == "__future__"]
    function = ast.parse("def __script__(payload):\n    return locals().get('result')").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body[:0] = [line for line in body if line not in head]
    return compile(ast.Module([*head, function], []), FILE, "exec", dont_inherit=True)


def run_script(code: str, payload: Any) -> str:
    """The reply: ``{"ok": true, "output": …}`` or ``{"ok": false, "error": …}`` with the trace on stderr."""
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile_script(code), module.__dict__)  # noqa: S102  # what this program is for
        output = _to_json(module.__dict__["__script__"](payload))
    except SystemExit as exc:
        if exc.code is not None and exc.code != 0:
            return dumps({"ok": False, "error": f"the script ended itself with {exc.code!r}"})
        output = "null"
    except BaseException as exc:
        return dumps(_failure(exc))
    return f'{{"ok": true, "output": {output}}}'


def _to_json(value: Any) -> str:
    try:
        return dumps(value, allow_nan=False, default=_to_plain)
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"what the script returned is not JSON: {exc}") from None


def _to_plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):  # a date, a time
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is none of None, bool, number, text, list, dict, date, time")


def _failure(exc: BaseException) -> dict[str, Any]:
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != FILE:
        trace = trace.tb_next
    traceback.print_exception(type(exc), exc, trace)
    line = exc.lineno if isinstance(exc, SyntaxError) else None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = exc.msg if isinstance(exc, SyntaxError) else str(exc)
    message = f"{type(exc).__name__}: {text}" + (f" (line {line})" if line else "")
    # A name from a file system may hold what UTF-8 cannot.
    message = message.encode(errors="backslashreplace").decode()
    return {"ok": False, "error": message, "syntax": isinstance(exc, SyntaxError)}


def _child(request: dict[str, Any], folder: str, reply_fd: int) -> None:
    """In the fork: run the script and write its reply."""
    os.setsid()
    os.chdir(folder)
    reap.shut(False)
    reap.limit(request["limits"])
    me = os.getpid()
    reply = memoryview(run_script(request["code"], request["payload"]).encode())
    if os.getpid() != me:
        return  # the script forked and both came back
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    while reply:
        reply = reply[os.write(reply_fd, reply) :]


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(0)  # the engine is gone
        data += part
    return data


def _warm_up() -> None:
    """What scripts import most is in memory before the first fork, out of the garbage collector's way."""
    for name in ("collections", "datetime", "math", "random", "re", "time", "_strptime"):
        importlib.import_module(name)
    gc.freeze()


def main() -> None:
    requests, reply_fd, ends = (int(argument) for argument in sys.argv[1:4])
    private, folders = sys.argv[4] == "private", sys.argv[5:]
    del sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    reap.adopt_orphans()
    reap.shut(True)
    _warm_up()
    while True:
        size = int.from_bytes(_read(requests, 4), "big")
        request = loads(_read(requests, size))
        child = os.fork()
        if child == 0:
            os.close(requests)
            os.close(ends)
            try:
                _child(request, folders[0], reply_fd)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        del request
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        clean = reap.end_descendants() and all(map(reap.empty, folders)) and not (private and reap.ipc_left())
        os.write(ends, f"{status} {int(clean)}\n".encode())
        if not clean:
            return


if __name__ == "__main__":
    main()
