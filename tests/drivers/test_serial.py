"""The serial driver on pseudo terminals: the kernel's own line discipline, hang-ups and all."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.base import DriverError, Observation
from drivers.serial import Serial, SerialConfig
from drivers.support.codecs import crc16
from tests.drivers.contract import Contract, observed
from tests.drivers.host import PATIENCE, FakeHost, Heard


class Device:
    """What is at the other end of the cable. ``path`` is the port's name, which stays when it is plugged in again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ttyTEST"
        self._end = -1
        self.plug()

    def plug(self) -> None:
        self._end, port = os.openpty()
        tty.setraw(port)
        os.set_blocking(self._end, False)
        self.path.symlink_to(os.ttyname(port))
        self._keep = port

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self._keep)
        os.close(self._end)
        self._end = -1

    def send(self, data: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while data:
            assert time.monotonic() < deadline
            try:
                data = data[os.write(self._end, data) :]
            except BlockingIOError:
                select.select([], [self._end], [], 0.1)

    def receive(self, size: int) -> bytes:
        data, deadline = b"", time.monotonic() + PATIENCE
        while len(data) < size:
            assert time.monotonic() < deadline, data
            if select.select([self._end], [], [], 0.1)[0]:
                data += os.read(self._end, size - len(data))
        return data

    def close(self) -> None:
        if self._end >= 0:
            self.unplug()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.close()


@pytest.fixture
def driver(device: Device, host: FakeHost) -> Iterator[Serial]:
    made = Serial(SerialConfig(port=str(device.path), format="modbus", framing="raw"), host)
    yield made
    made.close()


class TestContract(Contract):
    pass


class Listening:
    """A driver that is open and watched."""

    def __init__(self, device: Device, host: FakeHost, **config: Any) -> None:
        self.driver = Serial(SerialConfig(port=str(device.path), **config), host)
        self.heard = Heard()

    def __enter__(self) -> Listening:
        self.driver.open()
        self._stop = self.driver.events(self.heard)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.driver.close()

    def values(self, count: int) -> list[Any]:
        return [each.value for each in self.heard.kind("received", count)]


# --- framing and formats ---


@pytest.mark.parametrize(
    ("config", "sent", "values"),
    [
        ({}, b"one\r\ntwo\nthree\n", ["one", "two", "three"]),
        ({}, b"\n\n\r\nx\n", ["x"]),
        ({"encoding": "latin-1"}, b"21 \xb0C\n", ["21 °C"]),
        ({"format": "json"}, b'{"t": 21.5}\n[1]\n', [{"t": 21.5}, [1]]),
        ({"format": "csv"}, b'1, 2.5,"a,b",007,-3,nan\n', [[1, 2.5, "a,b", "007", -3, "nan"]]),
        ({"format": "csv", "columns": ("t", "rh"), "separator": ";"}, b"21;40\n", [{"t": 21, "rh": 40}]),
        ({"framing": "delimiter", "delimiter": "\\x03"}, b"a\nb\x03c\x03", ["a\nb", "c"]),
        ({"framing": "delimiter", "delimiter": "END"}, b"aENENDbEND", ["aEN", "b"]),
        ({"framing": "length", "format": "hex"}, b"\0\x02\xff\xfe\0\x01\x07", ["fffe", "07"]),
        ({"framing": "length", "length_bytes": 1}, b"\x03abc", ["abc"]),
        ({"framing": "length", "length_bytes": 4, "length_order": "little"}, b"\x02\0\0\0hi", ["hi"]),
        ({"framing": "raw", "format": "hex"}, b"\x00\x01\xff", ["0001ff"]),
    ],
)
def test_messages_are_cut_and_read(
    config: dict[str, Any], sent: bytes, values: list[Any], device: Device, host: FakeHost
) -> None:
    with Listening(device, host, **config) as listening:
        device.send(sent)
        assert listening.values(len(values)) == values
        observed(listening.heard, host)


def test_a_message_may_come_byte_by_byte(device: Device, host: FakeHost) -> None:
    with Listening(device, host, framing="delimiter", delimiter="\\r\\n") as listening:
        for byte in b"half\r\nwhole\r\n":
            device.send(bytes([byte]))
        assert listening.values(2) == ["half", "whole"]


def test_modbus_frames_are_checked(device: Device, host: FakeHost) -> None:
    # The example of the specification's appendix B: 02 07, checksum 41 12.
    assert crc16(b"\x02\x07").to_bytes(2, "little") == b"\x41\x12"
    with Listening(device, host, framing="raw", format="modbus", quiet=0.05) as listening:
        device.send(b"\x02\x07\x41\x12")
        assert listening.values(1) == [{"address": 2, "function": 7, "data": ""}]
        device.send(b"\x02\x07\x41\x13")
        assert listening.heard.one("garbage").attrs["reason"] == "wrong checksum"


# --- commands ---


def test_a_command_goes_out_in_the_ports_format(device: Device, host: FakeHost) -> None:
    with Listening(device, host, format="json") as listening:
        assert listening.driver.write({"value": {"led": True}}) == {"sent": 13}
        assert device.receive(13) == b'{"led":true}\n'
        assert listening.driver.write({"entity": str(device.path), "hex": "00 ff"}) == {"sent": 2}
        assert device.receive(2) == b"\x00\xff"


def test_a_modbus_command_gets_its_checksum_and_its_answer(device: Device, host: FakeHost) -> None:
    def answer() -> None:
        request = device.receive(8)
        assert request == bytes.fromhex("01030000000ac5cd")
        reply = bytes.fromhex("0103020007")
        device.send(reply + crc16(reply).to_bytes(2, "little"))

    with Listening(device, host, framing="raw", format="modbus") as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        command = {"value": {"address": 1, "function": 3, "data": "0000000a"}, "expect": True}
        done = listening.driver.write(command)
        thread.join(PATIENCE)
    assert done == {"sent": 8, "reply": {"address": 1, "function": 3, "data": "020007"}}


def test_the_answer_that_is_expected_is_waited_for(device: Device, host: FakeHost) -> None:
    def answer() -> None:
        device.receive(5)
        device.send(b"echo:M105\nok T:21\n")

    with Listening(device, host) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        done = listening.driver.write({"value": "M105", "expect": "^ok"})
        thread.join(PATIENCE)
        assert done["reply"] == "ok T:21"
        assert listening.values(2) == ["echo:M105", "ok T:21"]


def test_no_answer_is_an_error_in_time(device: Device, host: FakeHost) -> None:
    with Listening(device, host) as listening, pytest.raises(DriverError, match=r"no answer within 0\.05 s") as caught:
        listening.driver.write({"value": "hello?", "expect": True, "timeout": 0.05})
    assert caught.value.retryable


def test_a_device_that_takes_no_more_bytes_is_an_error_in_time(device: Device, host: FakeHost) -> None:
    with Listening(device, host) as listening, pytest.raises(DriverError, match="did not take the bytes"):
        listening.driver.write({"value": "x" * 1_000_000, "timeout": 0.2})


@pytest.mark.parametrize(
    ("config", "command", "says"),
    [
        ({}, {"value": "a\nb"}, "delimiter"),
        ({}, {"value": True}, "text"),
        ({"encoding": "ascii"}, {"value": "é"}, "ascii"),
        ({}, {"value": "x", "hex": "00"}, "either"),
        ({}, {"hex": "0x"}, "hex digits"),
        ({}, {"value": "x", "expect": "("}, "regular expression"),
        ({"framing": "length", "length_bytes": 1}, {"value": "x" * 300}, "do not fit"),
        ({"format": "modbus", "framing": "raw"}, {"value": {"address": 300, "function": 1}}, "address"),
        ({"format": "csv", "columns": ("a",)}, {"value": {"b": 1}}, "columns"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    config: dict[str, Any], command: dict[str, Any], says: str, device: Device, host: FakeHost
) -> None:
    with Listening(device, host, **config) as listening, pytest.raises(DriverError, match=says) as caught:
        listening.driver.write(command)
    assert not caught.value.retryable


# --- unplugging ---


def test_a_port_that_is_plugged_in_again_is_back_within_two_seconds(device: Device, host: FakeHost) -> None:
    with Listening(device, host) as listening:
        device.send(b"before\n")
        listening.values(1)
        device.unplug()
        assert listening.heard.one("lost").value
        with pytest.raises(DriverError, match="unplugged") as caught:
            listening.driver.write({"value": "anybody?"})
        assert caught.value.retryable
        device.plug()
        plugged = time.monotonic()
        gap = listening.heard.one("gap")
        assert time.monotonic() - plugged < 2
        assert gap.value > 0
        device.send(b"after\n")
        assert listening.values(2) == ["before", "after"]
        listening.driver.write({"value": "hi"})
        assert device.receive(3) == b"hi\n"
    assert [each.kind for each in listening.heard.all] == ["received", "lost", "gap", "received"]


def test_a_writer_that_waits_learns_that_the_port_is_gone(device: Device, host: FakeHost) -> None:
    failures: list[str] = []

    def write() -> None:
        try:
            listening.driver.write({"value": "x", "expect": True, "timeout": 60})
        except DriverError as exc:
            failures.append(exc.message)

    with Listening(device, host) as listening:
        thread = threading.Thread(target=write)
        thread.start()
        device.receive(2)
        device.unplug()
        thread.join(PATIENCE)
    assert "unplugged" in failures[0]


def test_a_port_that_is_not_there_is_told(host: FakeHost, tmp_path: Path) -> None:
    driver = Serial(SerialConfig(port=str(tmp_path / "ttyUSB9")), host)
    with pytest.raises(DriverError, match="is not there: is the device plugged in") as caught:
        driver.open()
    assert caught.value.retryable


def test_a_port_in_use_is_told(driver: Serial, device: Device, host: FakeHost) -> None:
    driver.open()
    other = Serial(SerialConfig(port=str(device.path), baud=9600), host)
    assert other.claims() == driver.claims()
    with pytest.raises(DriverError, match="in use by another program"):
        other.open()


# --- garbage ---


def test_a_line_of_another_speed_is_bounded(device: Device, host: FakeHost) -> None:
    noise = bytes(byte for byte in os.urandom(400_000) if byte != 10)
    with Listening(device, host, longest=1000, max_rate=20) as listening:
        device.send(noise)
        device.send(b"\nsense again\n")

        def overflowed(_: Observation) -> bool:
            return any(each.kind == "overflow" for each in listening.heard.all)

        listening.heard.until(overflowed)
        garbage = [each for each in listening.heard.all if each.kind == "garbage"]
        assert 1 <= len(garbage) <= 60
        assert all(len(each.value) <= 128 for each in garbage)
        assert garbage[0].attrs["reason"] == "no end within 1000 bytes"
        _eventually_sends(device, listening)


def _eventually_sends(device: Device, listening: Listening) -> None:
    """Behind the noise the next message is read, once the bound has room again."""
    deadline = time.monotonic() + PATIENCE
    while not any(each.kind == "received" for each in listening.heard.all):
        assert time.monotonic() < deadline
        device.send(b"sense again\n")
        select.select([], [], [], 0.05)
    assert next(each.value for each in listening.heard.all if each.kind == "received") == "sense again"


@pytest.mark.parametrize(
    ("config", "sent", "reason"),
    [
        ({}, b"\xff\xfe\n", "not utf-8 text"),
        ({"format": "json"}, b"{oops\n", "not JSON"),
        ({"format": "json"}, b"NaN\n", "not JSON"),
        ({"format": "json"}, b"[" * 3000 + b"\n", "not JSON"),
        ({"format": "csv", "columns": ("a", "b")}, b"1\n", "1 columns instead of 2"),
        ({"format": "csv"}, b'"open\n', "not a row of CSV"),
        ({"longest": 4}, b"12345\n", "longer than 4 bytes"),
        ({"framing": "length"}, b"\xff\xff\x00", "announces 65535 bytes"),
        ({"framing": "length"}, b"\x00\x09ab", "the frame broke off"),
        ({"framing": "raw", "longest": 3}, b"12345678", "no silence within 3 bytes"),
        ({"framing": "raw", "format": "modbus"}, b"\x01", "shorter than a Modbus frame"),
    ],
)
def test_garbage_is_told_with_its_reason(
    config: dict[str, Any], sent: bytes, reason: str, device: Device, host: FakeHost
) -> None:
    with Listening(device, host, **config) as listening:
        device.send(sent)
        told = listening.heard.one("garbage")
        assert told.attrs["reason"] == reason
        assert sent.hex().startswith(told.value[:4])


def test_a_flood_of_messages_is_counted_to_the_last(device: Device, host: FakeHost) -> None:
    with Listening(device, host, max_rate=50) as listening:
        device.send(b"tick\n" * 20_000)

        def all_told(_: Observation) -> bool:
            told = listening.heard.all
            counted = sum(each.value for each in told if each.kind == "overflow")
            return counted + sum(1 for each in told if each.kind == "received") == 20_000

        listening.heard.until(all_told)
        assert len(listening.heard.all) < 1000


# --- the USB identity ---


def plug_usb(root: Path, tty_name: str, serial: str, interface: int = 0) -> None:
    """sysfs as it looks with an FTDI adapter plugged in."""
    usb = root / f"sys/devices/usb1/1-{serial}"
    device = usb / f"1-{serial}:1.{interface}" / tty_name
    device.mkdir(parents=True)
    (usb / "idVendor").write_text("0403\n")
    (usb / "idProduct").write_text("6001\n")
    (usb / "serial").write_text(f"{serial}\n")
    (device.parent / "bInterfaceNumber").write_text(f"{interface:02x}\n")
    node = root / "sys/class/tty" / tty_name
    node.mkdir(parents=True)
    (node / "device").symlink_to(device)


class Usb(Serial):
    """A machine with its own sysfs."""


@pytest.fixture
def usb(tmp_path: Path) -> Path:
    Usb.root = tmp_path / "machine"
    (Usb.root / "dev").mkdir(parents=True)
    return Usb.root


def test_an_adapter_is_the_same_at_every_name(usb: Path, device: Device, host: FakeHost) -> None:
    plug_usb(usb, "ttyUSB0", "OTHER")
    plug_usb(usb, "ttyUSB3", "A5069RR4")
    (usb / "dev/ttyUSB3").symlink_to(device.path)
    driver = Usb(SerialConfig(port="0403:6001:A5069RR4"), host)
    heard = Heard()
    driver.open()
    stop = driver.events(heard)
    device.send(b"hello\n")
    heard.one("received")
    device.unplug()
    heard.one("lost")
    (usb / "sys/class/tty/ttyUSB3/device").unlink()
    (usb / "sys/class/tty/ttyUSB3").rmdir()
    (usb / "dev/ttyUSB3").unlink()
    plug_usb(usb, "ttyUSB7", "A5069RR4", interface=1)
    device.plug()
    (usb / "dev/ttyUSB7").symlink_to(device.path)
    heard.one("gap")
    device.send(b"again\n")
    assert [each.value for each in heard.kind("received", 2)] == ["hello", "again"]
    assert {each.source for each in heard.all} == {"0403:6001:A5069RR4"}
    stop()
    driver.close()


def test_an_adapter_that_is_not_there_is_told_with_what_is(usb: Path, host: FakeHost) -> None:
    plug_usb(usb, "ttyUSB0", "AAA")
    driver = Usb(SerialConfig(port="1a86:7523"), host)
    with pytest.raises(DriverError, match=r"no USB serial port 1a86:7523 .* 0403:6001:AAA:0 \(.*ttyUSB0\)") as caught:
        driver.open()
    assert caught.value.retryable


def test_two_adapters_alike_have_to_be_told_apart(usb: Path, host: FakeHost) -> None:
    plug_usb(usb, "ttyUSB0", "AAA")
    plug_usb(usb, "ttyUSB1", "BBB")
    with pytest.raises(DriverError, match="several ports are 0403:6001"):
        Usb(SerialConfig(port="0403:6001"), host).open()
