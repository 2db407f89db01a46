"""flowork.toml: what it may say, what is wrong in it, and that no secret stays in it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.box.onboard import Onboarding
from appliance.box.onboarding import Settings, read, rewritten, wifi_conf
from appliance.security.wallet import address_of, checksummed, new_private_key

ROOT = Path(__file__).parents[2]
OWNER = "0x52908400098527886E0F7030069857D2E4169EE7"

FULL = f"""
hostname = "Greenhouse.local"
timezone = "Europe/Berlin"
owner = "{OWNER}"
[wifi]
ssid = "Gardener's \\"net\\""
password = "correct horse # battery"
country = "de"
[ssh]
keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@laptop"]
"""


def test_all_that_is_right_is_taken_over() -> None:
    found = read(FULL.encode())
    assert found.problems == ()
    assert found.settings == Settings(
        hostname="greenhouse",
        timezone="Europe/Berlin",
        owner=OWNER.lower(),
        ssid='Gardener\'s "net"',
        password="correct horse # battery",
        country="DE",
        ssh_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@laptop",),
    )


def test_notepad_of_windows() -> None:
    text = '\ufeffhostname = "box"\r\n[wifi]\r\nssid = "n"\r\n'
    assert read(text.encode()).settings == Settings(hostname="box", ssid="n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('hostname = "my box"', "hostname: a name has letters"),
        ("hostname = 5", "hostname: it is written in quotes"),
        ('timezone = "Mars/Olympus"', "timezone: there is no time zone"),
        ('timezone = "../../etc/passwd"', "timezone: there is no time zone"),
        ('owner = "0x1234"', "owner: an address is 0x and 40 hex digits"),
        (
            'owner = "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"',
            "owner: 0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed has a",
        ),
        ('owner = "02' + "f" * 64 + '"', "owner: this is no public key"),
        ('owner_key_file = "yes"', "owner_key_file: it is true or false"),
        ('hostnam = "box"', "hostnam: there is no such setting"),
        ("wifi = 3", "wifi: there is no such setting"),
        ('[wifi]\nssid = ""', "wifi.ssid: a network's name has 1 to 32 bytes"),
        ('[wifi]\npassword = "long enough"', "wifi.ssid: the network's name is missing"),
        ('[wifi]\nssid = "n"\npassword = "short"', "wifi.password: a Wi-Fi password has 8"),
        ('[wifi]\nssid = "n"\npassword = "umlaut \u00e4\u00f6\u00fc"', "wifi.password: a Wi-Fi password has 8"),
        ('[wifi]\nssid = "n"\npassword = "line\\nbreak"', "wifi.password: a Wi-Fi password has 8"),
        ('[wifi]\nssid = "n"\ncountry = "Germany"', "wifi.country: a country is two letters"),
        ('[ssh]\nkeys = "ssh-ed25519 AAAA"', "ssh.keys: it is a list"),
        ('[ssh]\nkeys = ["-----BEGIN OPENSSH PRIVATE KEY-----"]', "ssh.keys: a key is one line"),
        ('[agent]\npairing_code = "hello"', "agent.pairing_code: a pairing code is numbers"),
        ('[agent]\nappliance = ["box"]', "agent.pairing_code: it is missing"),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_counts(line: str, said: str) -> None:
    text = f"console_locked = true\n{line}\n"
    found = read(text.encode())
    assert len(found.problems) == 1
    assert found.problems[0].startswith(said)
    assert found.settings == Settings(console_locked=True, ssid=found.settings.ssid, appliance=found.settings.appliance)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"hostname = ", b"x" * 70_000, b"a = 1\na = 2"])
def test_a_file_that_is_none_changes_nothing(data: bytes) -> None:
    before = Settings(hostname="box", ssid="net", password="secret word")
    found = read(data, before)
    assert found.settings == before
    assert len(found.problems) == 1
    assert "nothing was taken over" in found.problems[0]


@given(st.binary(max_size=200))
def test_no_file_breaks_it(data: bytes) -> None:
    read(data)


def test_a_public_key_is_an_owner() -> None:
    from coincurve import PrivateKey

    secret = new_private_key()
    public = PrivateKey.from_hex(secret.reveal()[2:]).public_key
    for compressed in (True, False):
        text = f'owner = "{public.format(compressed).hex()}"'
        assert read(text.encode()).settings.owner == address_of(secret)
    assert read(f'owner = "{checksummed(address_of(secret))}"'.encode()).problems == ()


def test_a_wrong_password_keeps_the_network_that_worked() -> None:
    before = Settings(ssid="old", password="old password")
    found = read(b'[wifi]\nssid = "new"\npassword = "short"', before)
    assert (found.settings.ssid, found.settings.password) == ("old", "old password")


def test_what_is_rewritten_says_the_same_without_the_secrets() -> None:
    settings = read(FULL.encode()).settings
    text = rewritten(settings, "today")
    assert settings.password.encode() not in text
    assert read(text, settings) == read(FULL.encode())
    assert tomllib.loads(text.decode())["wifi"]["ssid"] == settings.ssid


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@given(TEXT)
def test_any_network_name_comes_back(ssid: str) -> None:
    settings = Settings(ssid=ssid, password="a secret word")
    found = read(rewritten(settings, "today"), settings)
    assert found.problems == ()
    assert found.settings == settings


def test_what_wpa_supplicant_is_told() -> None:
    conf = wifi_conf(Settings(ssid='a"b', password='quote " and # sign', country="DE"))
    assert "ssid=612262\n" in conf
    assert '  psk="quote " and # sign"\n' in conf
    assert "country=DE\n" in conf
    assert "key_mgmt=NONE" in wifi_conf(Settings(ssid="open"))
    assert f"psk={'ab' * 32}\n" in wifi_conf(Settings(ssid="n", password="ab" * 32))


def test_the_example_on_the_card_is_right_once_its_marks_are_taken_away() -> None:
    lines = (ROOT / "images/flowork.toml").read_text().splitlines()
    assert read("\n".join(lines).encode()) == read(b"")
    settings = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines]
    found = read("\n".join(settings).replace("AAAA...", "AAAA").encode())
    assert found.problems == ()
    assert found.settings.ssid == "My network"


# --- the service -------------------------------------------------------------------------------------


class Card:
    """A folder that stands for a box's disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boot = root / "boot/flowork"
        self.boot.mkdir(parents=True)
        self.toml = self.boot / "flowork.toml"

    def start(self) -> None:
        for name in ("wifi.conf", "edge", "console-locked", "problems"):
            (self.root / "run/flowork" / name).unlink(missing_ok=True)
        assert Onboarding(self.root, now="today").run() == 0

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def test_the_first_start_applies_and_wipes(card: Card) -> None:
    card.toml.write_text(FULL.replace(f'owner = "{OWNER}"', ""))
    card.start()
    assert card.text("etc/hostname") == "greenhouse\n"
    assert "127.0.1.1\tgreenhouse" in card.text("etc/hosts")
    assert (card.root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    assert "correct horse" in card.text("run/flowork/wifi.conf")
    assert "correct horse" not in card.toml.read_text()
    assert card.text("data/system/ssh/authorized_keys").startswith("ssh-ed25519 ")
    assert not (card.boot / "flowork-problems.txt").exists()
    for path in ("run/flowork/wifi.conf", "data/system/settings.json"):
        assert (card.root / path).stat().st_mode & 0o777 == 0o600


def test_every_further_start_applies_the_same(card: Card) -> None:
    card.toml.write_text(FULL.replace(f'owner = "{OWNER}"', ""))
    card.start()
    conf, left = card.text("run/flowork/wifi.conf"), card.toml.read_bytes()
    card.start()
    assert card.text("run/flowork/wifi.conf") == conf
    assert card.toml.read_bytes() == left
    card.toml.unlink()
    card.start()
    assert card.text("run/flowork/wifi.conf") == conf


def test_a_change_later_on_keeps_the_password(card: Card) -> None:
    card.toml.write_text('[wifi]\nssid = "net"\npassword = "a secret word"\n')
    card.start()
    card.toml.write_text(card.toml.read_text() + 'country = "AT"\n')
    card.start()
    assert "a secret word" in card.text("run/flowork/wifi.conf")
    assert "country=AT" in card.text("run/flowork/wifi.conf")
    card.toml.write_text("")
    card.start()
    assert not (card.root / "run/flowork/wifi.conf").exists()


def test_problems_are_told_beside_the_file_and_go_away(card: Card) -> None:
    card.toml.write_text('hostname = "my box"\ntimezone = "UTC"\n')
    card.start()
    assert "hostname:" in (card.boot / "flowork-problems.txt").read_text()
    assert "hostname:" in card.text("run/flowork/problems")
    assert "my box" in card.toml.read_text(), "what is to be mended stays"
    card.start()
    assert "hostname:" in card.text("run/flowork/problems"), "told at every start"
    card.toml.write_text('hostname = "mybox"\n')
    card.start()
    assert not (card.boot / "flowork-problems.txt").exists()
    assert card.text("etc/hostname") == "mybox\n"


def test_a_wiped_file_still_tells_what_was_wrong(card: Card) -> None:
    card.toml.write_text('hostname = "my box"\n[wifi]\nssid = "net"\npassword = "a secret word"\n')
    card.start()
    assert "a secret word" not in card.toml.read_text()
    assert "# NOT taken over: hostname: a name has" in card.toml.read_text()


def test_a_power_cut_before_the_wiping_loses_nothing(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card.toml.write_text('[wifi]\nssid = "net"\npassword = "a secret word"\n')

    def cut(self: Onboarding, kept: object, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Onboarding, "_wipe", cut)
        with pytest.raises(KeyboardInterrupt):
            Onboarding(card.root, now="today").run()
    card.start()
    assert "a secret word" in card.text("run/flowork/wifi.conf")
    assert "a secret word" not in card.toml.read_text()


def test_a_file_emptied_by_a_power_cut_in_the_wiping_keeps_the_network(card: Card) -> None:
    card.toml.write_text('[wifi]\nssid = "net"\npassword = "a secret word"\n')
    card.start()
    card.toml.write_bytes(b"\0" * 60)
    card.start()
    assert "a secret word" in card.text("run/flowork/wifi.conf")


def test_an_edge_box(card: Card) -> None:
    card.toml.write_text('[agent]\npairing_code = "3-482-913"\nappliance = "flowork.local"\n')
    card.start()
    assert (card.root / "run/flowork/edge").exists()
    settings = tomllib.loads(card.text("var/lib/flowork-agent/flowork-agent.toml"))
    assert settings == {"code": "3-482-913", "appliance": ["flowork.local"]}
    assert "482" not in card.toml.read_text()
    (card.root / "var/lib/flowork-agent/flowork-agent.toml").unlink()
    card.start()
    assert (card.root / "run/flowork/edge").exists()
    assert not (card.root / "var/lib/flowork-agent/flowork-agent.toml").exists(), "a code is used once"
