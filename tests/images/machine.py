"""A machine that QEMU plays, started from an image: its disk, its power switch, its panel, a shell on it.

Everything is emulated in software, which takes ten times as long as on a real machine, unless FLOWORK_TEST_KVM says
that this one's processor may be used: inside of another virtual machine KVM is often there and does not work. Whoever
waits, waits for something that happens, and gives up only after minutes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, new_private_key, sign_message
from tests.support.broker import free_port

#: Seconds that a boot may take; one takes one to three minutes on a machine that does nothing else.
PATIENCE = float(os.environ.get("FLOWORK_TEST_PATIENCE", "900"))
#: MiB at which the boot partition begins (images/make/layout.py).
BOOT_AT = 4
#: What stands for a machine's firmware: code, and where it keeps what it is told. Debian's ovmf and qemu-efi-aarch64.
OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
ARM_UEFI = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")


class Disk:
    """A copy of an image, as if it had been flashed onto a larger card."""

    def __init__(self, image: Path, folder: Path, *, gib: int = 6) -> None:
        self.path = folder / "disk.img"
        self._folder = folder
        subprocess.run(["cp", "--sparse=always", str(image), str(self.path)], check=True)
        with self.path.open("r+b") as file:
            file.truncate(gib << 30)

    def put(self, name: str, data: str) -> None:
        """Write a file onto the boot partition, as a person does at their own computer."""
        beside = self._folder / "put"
        beside.write_text(data)
        self._mtools("mcopy", "-o", str(beside), f"::{name}")

    def get(self, name: str) -> bytes:
        """A file of the boot partition."""
        beside = self._folder / "got"
        beside.unlink(missing_ok=True)
        self._mtools("mcopy", f"::{name}", str(beside))
        return beside.read_bytes()

    def _mtools(self, tool: str, *arguments: str) -> None:
        at = f"{self.path}@@{BOOT_AT << 20}"
        subprocess.run([tool, "-i", at, *arguments], check=True, capture_output=True, timeout=60)


class Machine:
    """One machine; a context manager, at whose end the power is off."""

    def __init__(self, disk: Disk, folder: Path, *, uefi: bool = False, arm: bool = False, memory: int = 1024) -> None:
        self.disk = disk
        self.port, self.ssh_port = free_port(), free_port()
        self.console = folder / "console.log"
        self._folder = folder
        self._uefi = uefi
        self._arm = arm
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._cookie = ""
        self.owner = new_private_key()
        self._key = folder / "id_ed25519"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cut()

    def settings(self) -> str:
        """A flowork.toml that lets the test in: its key is the owner's, and it may have a shell."""
        if not self._key.exists():
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(self._key)]
            subprocess.run(made, check=True, timeout=30)
        public = self._key.with_suffix(".pub").read_text().strip()
        return (
            f'hostname = "testbox"\ntimezone = "Europe/Vienna"\nowner = "{address_of(self.owner)}"\n'
            f'[wifi]\nssid = "nowhere"\npassword = "a secret word"\n[ssh]\nkeys = ["{public}"]\n'
        )

    # --- the power switch ----------------------------------------------------------------------------

    def start(self) -> None:
        """Switch it on."""
        forward = f"hostfwd=tcp:127.0.0.1:{self.port}-:5000,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        command = [
            *("nice", "-n", "10", *(self._arm_machine() if self._arm else self._pc())),
            *(word for one in self._accelerators() for word in ("-accel", one)),
            *("-smp", "2", "-m", str(self._memory)),
            *("-display", "none", "-serial", f"file:{self.console}", "-monitor", "none"),
            # cache=writethrough: what the guest has synced is in the file when QEMU is killed.
            *("-drive", f"file={self.disk.path},format=raw,if=virtio,cache=writethrough"),
            *("-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
        ]
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def how(self) -> str:
        """``KVM``, or ``TCG`` where all is emulated."""
        return "KVM" if len(self._accelerators()) > 1 else "TCG"

    def _accelerators(self) -> list[str]:
        """The second is taken where the first cannot be had."""
        return [*(["kvm"] if not self._arm and "FLOWORK_TEST_KVM" in os.environ else []), "tcg,thread=multi"]

    def _pc(self) -> list[str]:
        firmware: list[str] = []
        if self._uefi:
            kept = self._folder / "uefi-vars.fd"
            if not kept.exists():
                shutil.copy(OVMF[1], kept)
            for index, (path, more) in enumerate(((OVMF[0], ",readonly=on"), (kept, ""))):
                firmware += ["-drive", f"if=pflash,unit={index},format=raw,file={path}{more}"]
        return ["qemu-system-x86_64", "-cpu", "max", *firmware]

    def _arm_machine(self) -> list[str]:
        return ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-bios", str(ARM_UEFI)]

    def cut(self) -> None:
        """Pull the plug; twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            # nice replaces itself by QEMU, so the pid is QEMU's.
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    def wait(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """Poll until the condition holds."""
        deadline = time.monotonic() + patience
        while not (value := condition()):
            assert self._process is None or self._process.poll() is None, f"QEMU ended while waiting for {what}"
            assert time.monotonic() < deadline, f"waited in vain for {what}; see {self.console}"
            time.sleep(0.5)
        return value

    def boot(self) -> float:
        """Switch it on and wait until the panel answers; the seconds that it took."""
        began = time.monotonic()
        self.start()
        self.wait(self.well, "the panel")
        return time.monotonic() - began

    # --- the panel -----------------------------------------------------------------------------------

    def well(self) -> bool:
        """Whether the panel answers."""
        try:
            return "status" in self.http("GET", "/api/v1/health", sign=False)
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def http(self, method: str, path: str, body: Any = None, *, sign: bool = True) -> Any:
        """A request as the owner; the answer, read from JSON."""
        if sign and not self._cookie:
            self._sign_in()
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Origin": self._origin}
        if sign:
            headers["Cookie"] = self._cookie
        request = urllib.request.Request(self._origin + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            if "Set-Cookie" in answer.headers:
                self._cookie = answer.headers["Set-Cookie"].partition(";")[0]
            return json.load(answer)

    @property
    def _origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _sign_in(self) -> None:
        key: Secret = self.owner
        challenge = self.http("GET", f"/api/v1/session/challenge?address={address_of(key)}", sign=False)
        signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
        self.http("POST", "/api/v1/session", signed, sign=False)

    # --- a shell -------------------------------------------------------------------------------------

    def run(self, command: str, *, data: Path | None = None, timeout: float = 300) -> str:
        """Standard output of a command on the machine, as `admin`; standard input from a file."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60"]
        ssh = ["ssh", "-i", str(self._key), "-p", str(self.ssh_port)]
        ssh += [word for option in options for word in ("-o", option)]
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(data.open("rb")) if data else subprocess.DEVNULL
            done = subprocess.run(
                [*ssh, "admin@127.0.0.1", command],
                stdin=source,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def slots(self) -> dict[str, Any]:
        """What `flowork-slot status` says."""
        found: dict[str, Any] = json.loads(self.run("sudo flowork-slot status --json"))
        return found

    def boots(self) -> list[str]:
        """The slots that were started since the console was written, in order (from the kernel's command lines)."""
        text = self.console.read_text(errors="replace")
        lines = [line for line in text.splitlines() if "Command line:" in line]
        return [line.partition("flowork.slot=")[2][:1] + ("?" if "flowork.trial=1" in line else "") for line in lines]


@contextlib.contextmanager
def machine(image: Path, folder: Path, *, uefi: bool = False, arm: bool = False) -> Iterator[Machine]:
    """A machine with a flashed card, not yet switched on; its kernel talks on the serial line."""
    line = "ttyAMA0" if arm else "ttyS0"
    with Machine(Disk(image, folder), folder, uefi=uefi, arm=arm) as made:
        made.disk.put("flowork/extra.cfg", f'set extra="console={line} loglevel=7"\n')
        made.disk.put("flowork.toml", made.settings())
        yield made
