"""An open serial port that never blocks and that several threads may use. The only importer of pyserial.

Reading and writing go round pyserial: its ``write`` turns in circles while the other side holds the flow, its ``read``
says too little about why it failed.
"""

from __future__ import annotations

import os
import termios
import threading
from typing import TYPE_CHECKING, Any

from drivers.base import DriverError

if TYPE_CHECKING:
    from serial import Serial

_CHUNK = 65536


class Port:
    """Every method but ``fileno`` raises ``OSError`` once the device is unplugged, or the port closed."""

    def __init__(self, port: Serial) -> None:
        self._port: Serial | None = port
        self._fd = port.fileno()
        self._lock = threading.Lock()  # nobody closes the port, whose number is used again, under somebody's hands

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        """What has come, perhaps nothing."""
        with self._lock:
            self._held()
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return b""
        if not data:
            raise OSError("it was unplugged")
        return data

    def write(self, data: memoryview) -> int:
        """How many bytes the kernel has taken."""
        with self._lock:
            self._held()
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                return 0

    def unsent(self) -> int:
        """How many bytes the kernel still holds."""
        with self._lock:
            return self._held().out_waiting

    def forget(self) -> None:
        """Throw away what is not sent yet."""
        with self._lock:
            try:
                self._held().reset_output_buffer()
            except termios.error as exc:
                raise OSError(*exc.args) from exc

    def close(self) -> None:
        with self._lock:
            port, self._port = self._port, None
            if port is not None:
                try:
                    port.close()
                except OSError:
                    pass  # it is gone

    def _held(self) -> Serial:
        if self._port is None:
            raise OSError("the port is closed")
        return self._port


def missing() -> str:
    """What to do when pyserial is not installed, or nothing."""
    try:
        import serial  # noqa: F401
    except ImportError:
        return "serial ports need the library pyserial: pip install pyserial"
    return ""


def connect(path: str, *, dtr: bool, **settings: Any) -> Port:
    """The opened port; ``settings`` are pyserial's. Raises ``DriverError``."""
    if reason := missing():
        raise DriverError(reason, retryable=False)
    from serial import Serial, SerialException

    port = Serial(timeout=0, write_timeout=0, exclusive=True, **settings)
    port.port = path
    port.dtr = dtr
    try:
        port.open()
    except (SerialException, OSError, ValueError) as exc:
        raise _refusal(exc, path) from exc
    try:
        port.set_low_latency_mode(True)  # FTDI's chips hold bytes back for 16 ms otherwise
    except (OSError, ValueError, NotImplementedError):
        pass
    return Port(port)


def _refusal(exc: Exception, path: str) -> DriverError:
    text = str(exc)
    if isinstance(exc, ValueError):
        return DriverError(f"{path}: {text}", retryable=False)
    if "Permission" in text:
        return DriverError(
            f"{path} may not be opened by this account: add it to the group that owns the port "
            "(often: sudo usermod -aG dialout USER), then start the agent again"
        )
    if "No such file" in text:
        return DriverError(f"{path} is not there: is the device plugged in?")
    if "exclusively lock" in text or "busy" in text:
        return DriverError(f"{path} is in use by another program: end it (sudo fuser {path} names it)")
    return DriverError(text)
