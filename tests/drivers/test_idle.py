"""What waiting costs: ten pins' worth of threads, a serial port, the process source, a folder, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from drivers.base import names

#: Opens what an ordinary box has on, then tells what it holds (CPU is a figure of `scripts/bench edge`).
_BOX = """
import os, resource, sys, tty
from pathlib import Path
from tests.drivers.host import FakeHost, Heard
from drivers.base import find
def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1048576
host, folder = FakeHost(Path(sys.argv[1])), sys.argv[1]
end, port = os.openpty()
tty.setraw(port)
wanted = [("serial", {"port": os.ttyname(port)}), ("process", {"name": "no-such-program"})]
wanted += [("files", {"folder": folder})]
wanted += [("sim", {"name": str(each), "interval": 3600.0}) for each in range(10)]
drivers, stops = [], []
for name, config in wanted:
    kind = find(name)
    driver = kind(kind.Config(**config), host)
    driver.open()
    drivers.append(driver)
    stops.append(driver.events(Heard()))
print(memory())
print(sorted(name for name in sys.modules if name in ("flask", "huey", "peewee", "numpy", "httpx", "appliance")))
for stop, driver in zip(stops, drivers):
    stop()
    driver.close()
"""


def test_an_ordinary_box_needs_little_memory(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _BOX, str(tmp_path)], capture_output=True, text=True, timeout=55)
    memory, forbidden = done.stdout.splitlines()
    assert forbidden == "[]"
    assert float(memory) < 40


def test_no_driver_imports_its_library_before_it_is_used() -> None:
    heavy = ["gpiod", "serial", "watchdog", "psutil", "smbus2", "paho", "sqlite3", "jinja2"]
    code = (
        "import sys; import drivers.base as base; base.names(); at_first = set(sys.modules)\n"
        f"base.all_types(); print(sorted(set({heavy!r}) & at_first), sorted(set({heavy!r}) & set(sys.modules)))\n"
        "print([name for name in base.names() if f'drivers.{name}' in at_first])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env=os.environ)
    first, second = done.stdout.splitlines()
    assert first.startswith("[] ["), done.stderr
    assert not set(eval(first.removeprefix("[] "))) - {"sqlite3", "jinja2", "paho"}
    assert second == "[]"
    assert len(names()) >= 11
