"""The pwm driver on a folder as the kernel's PWM class shows it. No simulator of the kernel has a PWM output."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.base import DriverError
from drivers.pwm import Pwm, PwmConfig
from tests.drivers.contract import Contract
from tests.drivers.host import FakeHost, Heard


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported channel of a chip."""
    folder = tmp_path / "sys/class/pwm/pwmchip0/pwm1"
    folder.mkdir(parents=True)
    for name, text in {"period": 0, "duty_cycle": 0, "enable": 0, "polarity": "normal"}.items():
        (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(Pwm, "root", tmp_path)
    return folder


@pytest.fixture
def driver(channel: Path, host: FakeHost) -> Pwm:
    return Pwm(PwmConfig(channel=1, frequency=25_000, initial=0.5, safe=1.0), host)


class TestContract(Contract):
    pass


def state(channel: Path) -> tuple[str, ...]:
    return tuple((channel / name).read_text().strip() for name in ("period", "duty_cycle", "enable", "polarity"))


def test_it_starts_as_declared_is_set_and_made_safe(driver: Pwm, channel: Path, heard: Heard) -> None:
    driver.open()
    assert state(channel) == ("40000", "20000", "1", "normal")
    stop = driver.events(heard)
    assert driver.write({"value": 0.25}) == {"value": 0.25}
    assert driver.write({"value": 0.25}) == {"value": 0.25}
    assert driver.write({"read": True}) == {"value": 0.25}
    assert state(channel)[1] == "10000"
    driver.safe_state()
    assert state(channel)[1] == "40000"
    stop()
    driver.close()
    assert [(each.kind, each.value) for each in heard.all] == [("initial", 0.5), ("changed", 0.25), ("changed", 1.0)]


def test_polarity_is_set_before_it_runs(channel: Path, host: FakeHost) -> None:
    driver = Pwm(PwmConfig(channel=1, polarity="inversed"), host)
    driver.open()
    driver.close()
    assert state(channel)[3] == "inversed"


@pytest.mark.parametrize("command", [{}, {"value": 1.5}, {"value": 0.1, "read": True}])
def test_wrong_commands_are_refused(driver: Pwm, command: dict[str, object]) -> None:
    driver.open()
    with pytest.raises(DriverError) as caught:
        driver.write(command)
    assert not caught.value.retryable
    driver.close()


def test_what_is_missing_is_told(
    channel: Path, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DriverError, match="no pwmchip7; there are: pwmchip0"):
        Pwm(PwmConfig(chip="pwmchip7"), host).open()
    monkeypatch.setattr(Pwm, "root", tmp_path / "nothing")
    with pytest.raises(DriverError, match="dtoverlay=pwm-2chan"):
        Pwm(PwmConfig(), host).open()
