"""The list of installed files: what was changed, taken away or put there is named; the policy decides what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import findings, integrity
from appliance.contracts import ConfigError
from appliance.integrity import check, must_refuse, private_key, seal
from appliance.kernel.integrity import Watch
from appliance.security import signatures

KEY = signatures.new_key()
OWN, OTHERS = "lib/python3.11/site-packages/appliance/a.py", "lib/python3.11/site-packages/flask/b.py"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    for name in (OWN, OTHERS, "bin/flowork"):
        (tmp_path / "r" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r" / name).write_text(name)
    seal(tmp_path / "r", KEY)
    return tmp_path / "r"


def test_files_as_they_were_are_well_also_with_what_python_makes_itself(release: Path) -> None:
    cache = (release / OWN).parent / "__pycache__"
    cache.mkdir()
    (cache / "a.pyc").write_bytes(b"x")
    (release / "complete").touch()
    assert check(release).well and check(release).sealed


def test_what_differs_is_named(release: Path) -> None:
    (release / OWN).write_text("changed")
    (release / "bin/flowork").unlink()
    (release / "bin/more").touch()
    found = check(release)
    assert (found.changed, found.missing, found.added) == ([OWN], ["bin/flowork"], ["bin/more"])
    assert found.text() == f"changed: {OWN}; missing: bin/flowork; added: bin/more"


def test_a_list_that_was_changed_does_not_count(release: Path) -> None:
    text = (release / integrity.LIST).read_text()
    (release / integrity.LIST).write_text(text.replace("flask", "flusk"))
    assert "not the one that was signed" in check(release).fault
    (release / integrity.SIGNATURE).unlink()
    assert "lost its signature" in check(release).fault


def test_a_checkout_has_no_list_and_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert not found.sealed and found.well and must_refuse("refuse", tmp_path) == ""


def test_only_floworks_own_files_keep_the_kernel_from_starting(release: Path) -> None:
    (release / OTHERS).write_text("changed")
    assert must_refuse("refuse", release) == "" and not check(release).well
    (release / OWN).write_text("changed")
    assert OWN in must_refuse("refuse", release)
    assert must_refuse("report", release) == ""


def test_the_kernel_looks_at_its_start_and_then_once_a_day(release: Path) -> None:
    now = [0.0]
    watch = Watch(release, lambda: "report", lambda: now[0])
    watch.look()
    watch.stop()
    assert watch.view()["text"] == ""
    (release / OWN).write_text("changed")
    now[0] = 3600.0
    watch.look()
    watch.stop()
    assert watch.view()["text"] == ""
    now[0] = 90_000.0
    watch.look()
    watch.stop()
    assert OWN in watch.view()["text"]


def test_nobody_looks_where_that_is_not_wanted(release: Path) -> None:
    (release / OWN).write_text("changed")
    watch = Watch(release, lambda: "ignore", lambda: 0.0)
    watch.look()
    watch.stop()
    assert watch.view()["text"] == ""


def test_the_key_is_made_once_and_is_for_root_alone(tmp_path: Path) -> None:
    first = private_key(tmp_path / "key")
    assert private_key(tmp_path / "key") == first
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "bad").write_text("nonsense")
    with pytest.raises(ConfigError, match="bad"):
        private_key(tmp_path / "bad")


def test_a_difference_is_a_finding_of_the_health_page() -> None:
    (found,) = findings._integrity({"integrity": {"text": "changed: a.py"}})
    assert found.level == "critical" and "changed: a.py" in found.text
