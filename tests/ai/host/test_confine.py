"""What the host takes from itself, in a child that does the same; and how memory is reckoned, on made-up machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.ai.host import memory

CHILD = """
import socket, resource, threading
from appliance.ai.host.confine import confine
assert confine(1 << 28) == []
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_DGRAM)
        print("open", family)
    except PermissionError:
        pass
socket.socket(socket.AF_UNIX).close()
socket.socketpair()
found = []
def later():
    try:
        socket.socket(socket.AF_INET)
        found.append("open")
    except PermissionError:
        found.append("shut")
thread = threading.Thread(target=later)
thread.start(); thread.join()
assert found == ["shut"]
try:
    bytearray(3 << 30)
    print("no bound of memory")
except MemoryError:
    pass
print("confined")
"""


def test_a_confined_process_has_no_network_and_a_bound_of_memory() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("confined\n", "")


def machine(root: Path, *, total: int, available: int, group: str = "", **limits: str) -> Path:
    """A machine of so many kB; ``limits`` are files of the control group's folder."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: {total} kB\nMemAvailable:   {available} kB\n")
    if group:
        (root / "proc/self/cgroup").write_text(f"0::{group}\n")
        folder = root / "sys/fs/cgroup" / group.strip("/")
        folder.mkdir(parents=True)
        for name, text in limits.items():
            (folder / name.replace("_", ".", 1)).write_text(text)
    return root


def test_six_tenths_of_a_machine_are_for_models(tmp_path: Path) -> None:
    root = machine(tmp_path, total=4_000_000, available=3_000_000)
    assert memory.default_bound(root) == int(4_000_000 * 1024 * 0.6)
    assert memory.available(root) == 3_000_000 * 1024


def test_the_bound_of_a_control_group_counts(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        total=4_000_000,
        available=3_000_000,
        group="/system.slice/flowork-models.service",
        memory_max="1000000000\n",
        memory_high="max\n",
        memory_current="700000000\n",
        memory_stat="anon 1\ninactive_file 200000000\n",
    )
    (root / "sys/fs/cgroup/system.slice/memory.max").write_text("max\n")
    assert memory.default_bound(root) == 900_000_000
    assert memory.available(root) == 500_000_000


def test_a_small_machine_still_may_try(tmp_path: Path) -> None:
    assert memory.default_bound(machine(tmp_path, total=200_000, available=1)) == 256 << 20


def test_this_process_is_measured() -> None:
    assert 10_000_000 < memory.resident() < 10_000_000_000
    assert memory.available() > 0
    assert memory.default_bound() >= 256 << 20
