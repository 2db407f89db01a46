"""The supervisor with toy children, in a process of its own: every signal and every death is a real one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from appliance.supervisor import Backoff
from tests.support.processes import gone

PRELUDE = """
import os, signal, subprocess, sys, time
from appliance.supervisor import Backoff, Program, Supervisor

def say(text):
    os.write(1, (text + "\\n").encode())

def loyal(name):
    def main():
        signal.signal(signal.SIGTERM, lambda *_: (say(f"{name} down"), os._exit(0)))
        say(f"{name} up {os.getpid()}")
        while True:
            signal.pause()
    return main

def stubborn(name):
    def main():
        signal.signal(signal.SIGTERM, lambda *_: say(f"{name} refuses"))
        say(f"{name} up {os.getpid()}")
        while True:
            signal.pause()
    return main

def run(*programs, **backoff):
    sys.exit(Supervisor(programs, say, Backoff(**backoff)).run())
"""


class Toy:
    """A running supervisor; ``until`` reads its output up to the line that matches."""

    def __init__(self, code: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line {pattern!r} in {self.lines}")

    def pids(self, *names: str) -> dict[str, int]:
        """Reads until each of the children has said its pid, in whatever order."""
        found: dict[str, int] = {}
        while found.keys() != set(names):
            line = self.until(r"^(\w+) up (\d+)")
            found[line[1]] = int(line[2])
        return found

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """All that it still says goes to ``lines``. Returns the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()


@pytest.fixture
def toy() -> Iterator[Callable[[str], Toy]]:
    made: list[Toy] = []

    def make(code: str) -> Toy:
        made.append(Toy(code))
        return made[-1]

    yield make
    for one in made:
        with one.process:
            one.process.kill()


TWO = "run(Program('kernel', loyal('kernel')), Program('gateway', loyal('gateway')))"


def test_stops_in_reverse_order(toy: Callable[[str], Toy]) -> None:
    engine = toy(TWO)
    pids = engine.pids("kernel", "gateway")
    engine.signal(signal.SIGTERM)
    assert engine.end() == 0
    said = [line for line in engine.lines if " up " not in line]
    assert said == ["stopping gateway", "gateway down", "stopping kernel", "kernel down", "stopped"]
    assert all(gone(pid) for pid in pids.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminal_signal_reaches_only_the_supervisor(toy: Callable[[str], Toy], number: int) -> None:
    engine = toy(TWO)
    engine.pids("kernel", "gateway")
    os.killpg(engine.process.pid, number)  # as Ctrl-C does: the whole foreground group
    assert engine.end() == 0
    assert engine.lines[-5:] == ["stopping gateway", "gateway down", "stopping kernel", "kernel down", "stopped"]


def test_under_nohup_a_hangup_is_ignored(toy: Callable[[str], Toy]) -> None:
    engine = toy("signal.signal(signal.SIGHUP, signal.SIG_IGN);" + TWO)
    pids = engine.pids("kernel", "gateway")
    engine.signal(signal.SIGHUP)
    os.kill(pids["kernel"], signal.SIGKILL)
    assert engine.pids("kernel")["kernel"] != pids["kernel"]
    engine.signal(signal.SIGTERM)
    assert engine.end() == 0


def test_a_killed_child_is_started_again(toy: Callable[[str], Toy]) -> None:
    engine = toy(TWO)
    first = engine.pids("kernel", "gateway")
    os.kill(first["kernel"], signal.SIGKILL)
    engine.until(r"^kernel ended \(SIGKILL\); starting it again in 0.1 s")
    assert engine.pids("kernel")["kernel"] != first["kernel"]
    assert not gone(first["gateway"], 0)


CRASH = """
def crash():
    return 3
run(Program("crash", crash), first=0.01, longest=0.03, healthy={healthy})
"""


def test_a_child_that_keeps_dying_is_started_ever_more_slowly(toy: Callable[[str], Toy]) -> None:
    engine = toy(CRASH.format(healthy=60))
    waits = [engine.until(r"^crash ended \(exit code 3\); .* in (\S+) s")[1] for _ in range(4)]
    assert waits == ["0.01", "0.02", "0.03", "0.03"]


def test_a_healthy_life_forgives_earlier_deaths(toy: Callable[[str], Toy]) -> None:
    engine = toy(CRASH.format(healthy=0))
    assert [engine.until(r"in (\S+) s")[1] for _ in range(3)] == ["0.01", "0.01", "0.01"]


def test_a_thousand_deaths_do_not_overflow() -> None:
    assert Backoff(first=0.1, longest=30).delay(10_000) == 30


def test_an_exception_is_shown_and_the_child_is_started_again(toy: Callable[[str], Toy]) -> None:
    engine = toy("def broken():\n    raise RuntimeError('the reason')\nrun(Program('broken', broken))")
    engine.until("RuntimeError: the reason")
    engine.until(r"broken ended \(exit code 1\)")


def test_a_child_that_may_end_is_not_started_again(toy: Callable[[str], Toy]) -> None:
    once = "run(Program('herald', lambda: say('hello') or 0, restart=False), Program('last', loyal('last')))"
    engine = toy(once)
    pid = engine.pids("last")["last"]
    if "hello" not in engine.lines:
        engine.until("^hello$")
    engine.signal(signal.SIGTERM)
    assert engine.end() == 0
    assert gone(pid)
    assert engine.lines.count("hello") == 1
    assert not [line for line in engine.lines if "again" in line]


def test_a_child_that_does_not_stop_is_killed(toy: Callable[[str], Toy]) -> None:
    engine = toy("run(Program('kernel', loyal('kernel')), Program('mule', stubborn('mule'), grace=0.05))")
    mule = engine.pids("kernel", "mule")["mule"]
    engine.signal(signal.SIGTERM)
    assert engine.end() == 1
    assert "mule did not stop in time; killing it" in engine.lines
    assert engine.lines[-2:] == ["kernel down", "stopped, by force"]
    assert gone(mule)


def test_a_second_signal_does_not_wait(toy: Callable[[str], Toy]) -> None:
    engine = toy("run(Program('mule', stubborn('mule'), grace=3600))")
    mule = engine.pids("mule")["mule"]
    engine.signal(signal.SIGTERM)
    engine.until("mule refuses")
    engine.signal(signal.SIGINT)
    assert engine.end() == 1
    assert gone(mule)


def test_nothing_survives_the_supervisor(toy: Callable[[str], Toy]) -> None:
    engine = toy(TWO)
    pids = engine.pids("kernel", "gateway")
    engine.signal(signal.SIGKILL)
    assert engine.end() == -signal.SIGKILL
    assert all(gone(pid) for pid in pids.values())


def test_what_a_dead_child_had_started_dies_with_it(toy: Callable[[str], Toy]) -> None:
    master = """
def master():
    say(f"worker up {subprocess.Popen(['sleep', '3600']).pid}")
    say(f"master up {os.getpid()}")
    signal.pause()
run(Program("master", master), first=60)
"""
    engine = toy(master)
    pids = engine.pids("worker", "master")
    os.kill(pids["master"], signal.SIGKILL)
    assert gone(pids["worker"])


def test_a_fork_that_fails_is_tried_again(toy: Callable[[str], Toy]) -> None:
    scarce = """
fork = os.fork
def full():
    os.fork = fork
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = full
"""
    engine = toy(scarce + "run(Program('kernel', loyal('kernel')))")
    engine.until(r"^kernel ended \(Resource temporarily unavailable\)")
    engine.pids("kernel")


def test_at_rest_it_sleeps(toy: Callable[[str], Toy]) -> None:
    """With nothing to restart there is no timeout to wake up for: it waits in one endless select."""
    watched = """
wait = select.select
def watch(*args):
    say(f"asleep until {args[3]}")
    return wait(*args)
select.select = watch
"""
    engine = toy("import select" + watched + "run(Program('kernel', loyal('kernel')))")
    assert engine.until(r"asleep until (\S+)")[1] == "None"


# --- a child that is started when somebody connects -----------------------------------------------------

DOOR = """
import socket
door = socket.create_server(("127.0.0.1", 0))
say(f"door {door.getsockname()[1]}")
def host():
    say(f"host up {os.getpid()}")
    link = door.accept()[0]
    order = link.recv(100)
    if order == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    link.sendall(b"done")
    return 0
"""


def at_the_door(first: float) -> str:
    return f"{DOOR}run(Program('kernel', loyal('kernel')), Program('host', host, door=door), first={first})"


def call(port: int, order: bytes) -> bytes:
    """What the host answers; it is started for that."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(order)
        return link.recv(100)


def test_a_child_with_a_door_is_started_by_a_connection_and_may_end(toy: Callable[[str], Toy]) -> None:
    engine = toy(at_the_door(60))
    port = int(engine.until(r"^door (\d+)")[1])
    engine.pids("kernel")
    pids = []
    for _ in range(3):
        assert call(port, b"hello") == b"done"
        pids.append(int(engine.until(r"^host up (\d+)")[1]))
    assert len(set(pids)) == 3
    engine.signal(signal.SIGTERM)
    assert engine.end() == 0
    assert not [line for line in engine.lines if "ended" in line], "an end that was meant is not told"


def test_one_that_died_at_work_is_started_by_the_next_connection(toy: Callable[[str], Toy]) -> None:
    engine = toy(at_the_door(0.01))
    port = int(engine.until(r"^door (\d+)")[1])
    with contextlib.suppress(ConnectionResetError):
        assert call(port, b"die") == b""
    first = int(engine.until(r"^host up (\d+)")[1])
    engine.until(r"^host ended \(SIGKILL\); starting it again in 0.01 s, if it is needed")
    assert call(port, b"hello") == b"done"
    assert int(engine.until(r"^host up (\d+)")[1]) != first


def test_one_that_keeps_dying_lets_its_callers_wait(toy: Callable[[str], Toy]) -> None:
    engine = toy(at_the_door(0.01))
    port = int(engine.until(r"^door (\d+)")[1])
    waits = []
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            call(port, b"die")
        waits.append(engine.until(r"^host ended .* in (\S+) s")[1])
    assert waits == ["0.01", "0.02", "0.04"]


def test_a_door_at_which_nobody_knocks_costs_no_wake_up(toy: Callable[[str], Toy]) -> None:
    watched = """
wait = select.select
def watch(*args):
    say(f"asleep until {args[3]} at {len(args[0])}")
    return wait(*args)
select.select = watch
"""
    engine = toy("import select" + watched + at_the_door(60))
    assert engine.until(r"asleep until (\S+) at 2")[1] == "None"
