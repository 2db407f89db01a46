"""Telling the living from the dead."""

from __future__ import annotations

import os
import subprocess
import sys

from appliance.queue import owner
from tests.queue.support import until


def test_this_process_is_alive() -> None:
    assert not owner.is_dead(owner.this_process())


def test_a_process_that_ended_is_dead_before_and_after_it_was_waited_for() -> None:
    code = (
        "import os, sys; from appliance.queue import owner; print(owner.this_process(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name.split("/")[2] == str(process.pid)
        assert not owner.is_dead(name)
        process.kill()
        until(lambda: owner.is_dead(name), "the zombie counts as dead")
    assert owner.is_dead(name)


def test_a_pid_that_was_given_to_another_process_does_not_count() -> None:
    boot, namespace, pid, start = owner.this_process().split("/")
    assert owner.is_dead(f"{boot}/{namespace}/{pid}/{int(start) + 1}")


def test_everybody_from_before_a_reboot_is_dead() -> None:
    _, namespace, pid, start = owner.this_process().split("/")
    assert owner.is_dead(f"another-boot/{namespace}/{pid}/{start}")


def test_a_process_of_another_container_is_not_judged() -> None:
    boot, _, pid, start = owner.this_process().split("/")
    assert not owner.is_dead(f"{boot}/pid:[1]/{pid}/{int(start) + 1}")


def test_what_is_no_owner_is_dead() -> None:
    boot, namespace, _, start = owner.this_process().split("/")
    for name in ("", "x", f"{boot}/{namespace}/pid/{start}", f"{boot}/{namespace}/{2**70}/{start}"):
        assert owner.is_dead(name)


def test_a_process_of_another_user_is_seen() -> None:
    # pid 1 belongs to root; to anybody else the signal is refused, which means that it is there.
    boot, namespace, _, _ = owner.this_process().split("/")
    known = owner._state_and_start(1)
    if os.readlink("/proc/self/ns/pid") == namespace and known is not None:
        assert not owner.is_dead(f"{boot}/{namespace}/1/{known[1]}")
