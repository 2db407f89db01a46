"""Starts a program where bubblewrap does not work, and ends all that came of it.

Arguments: a descriptor (the lifeline), limits as JSON, then the program and its arguments. When the program
ends, every process it left behind is killed, whatever session it went to. The same happens when the lifeline
reaches its end of file: the engine closed it to end the work, or was itself killed.
"""

from __future__ import annotations

import json
import os
import select
import sys

TYPE_CHECKING = False  # typing's own would cost a tenth of the start
if TYPE_CHECKING:
    from appliance.sandbox.runners import reap
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import reap

    del sys.path[0]


def start(limits: dict[str, int], argv: list[str]) -> int:
    """Fork and become the program; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
        reap.limit(limits)
        os.execvp(argv[0], argv)  # noqa: S606  # an argument list is the point
    except OSError as exc:
        os.write(2, f"cannot start {argv[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(127)


def main() -> None:
    lifeline = int(sys.argv[1])
    os.set_inheritable(lifeline, False)
    reap.adopt_orphans()
    child = start(json.loads(sys.argv[2]), sys.argv[3:])
    os.closerange(0, 3)
    pidfd = os.pidfd_open(child)
    either = select.poll()
    either.register(lifeline, select.POLLIN)
    either.register(pidfd, select.POLLIN)
    ready = [fd for fd, _ in either.poll()]
    status = 137
    if pidfd in ready:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = code if code >= 0 else 128 - code
    reap.end_descendants()
    os._exit(status)


if __name__ == "__main__":
    main()
