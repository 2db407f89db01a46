"""An engine put in the place of another: staged, swapped in once, also when the power goes in between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance import restoring
from appliance.firststart import prepare
from appliance.paths import EngineLock, FolderInUse, holder
from appliance.safemode import SafeMode
from appliance.security.keys import read_engine
from appliance.store.backup import make_backup
from appliance.store.errors import StoreError
from appliance.store.metadata import open_store
from appliance.store.seal import Keys


def engine(folder: Path, variable: str) -> str:
    """A new engine with a variable; its id."""
    folder.mkdir(mode=0o700)
    prepare(folder)
    with closing(open_store(folder)) as store:
        store.values.set_variable("default", variable, 1)
    return read_engine(folder).id


def variables(folder: Path) -> list[str]:
    with closing(open_store(folder)) as store:
        return [one.name for one in store.values.variables("default")]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    engine(tmp_path / "old", "from_backup")
    make_backup(tmp_path / "old", tmp_path / "flowork.tar.gz")
    return tmp_path / "flowork.tar.gz"


def test_the_engine_of_a_backup_takes_the_place_of_another(tmp_path: Path, backup: Path) -> None:
    data = tmp_path / "data"
    mine = engine(data, "mine")
    (data / "models").mkdir()
    (data / "models" / "small.gguf").write_bytes(b"x")
    restoring.stage(data, backup, Keys())
    assert variables(data) == ["mine"], "until the next start nothing has changed"
    assert restoring.waits(data)
    restoring.swap(data)
    assert variables(data) == ["from_backup"]
    assert read_engine(data).id == read_engine(tmp_path / "old").id
    assert not restoring.waits(data) and not (data / restoring.FOLDER).exists()
    assert (data / "models" / "small.gguf").exists()
    assert variables(data / restoring.REPLACED) == ["mine"]
    assert read_engine(data / restoring.REPLACED).id == mine


def test_as_another_it_has_its_own_identity_and_rests(tmp_path: Path, backup: Path) -> None:
    data = tmp_path / "data"
    mine = engine(data, "mine")
    restoring.stage(data, backup, Keys(), as_another=True)
    restoring.swap(data)
    assert read_engine(data).id not in {mine, read_engine(tmp_path / "old").id}
    rest = SafeMode(data).on()
    assert rest is not None and "restored as another engine" in rest.reason


def test_a_backup_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    engine(data, "mine")
    (tmp_path / "bad").write_bytes(b"no backup")
    with pytest.raises(StoreError):
        restoring.stage(data, tmp_path / "bad", Keys())
    assert not restoring.waits(data)
    assert not (data / restoring.FOLDER / "engine").exists()


def test_a_swap_that_is_cut_off_anywhere_is_finished_at_the_next_start(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes before each of its renames in turn."""
    real: dict[str, Callable[..., Path]] = {"rename": Path.rename, "replace": Path.replace}
    template = tmp_path / "template"
    engine(template, "mine")
    restoring.stage(template, backup, Keys())
    cuts = 0
    while True:
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(template, data)
        left = cuts

        def cut(name: str) -> Callable[..., Path]:
            def work(self: Path, target: Path) -> Path:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                return real[name](self, target)

            return work

        for name in real:
            monkeypatch.setattr(Path, name, cut(name))
        try:
            restoring.swap(data)
            break
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.undo()
        assert restoring.waits(data)
        restoring.swap(data)
        assert variables(data) == ["from_backup"], f"after {cuts} renames"
        assert variables(data / restoring.REPLACED) == ["mine"], f"after {cuts} renames"
        cuts += 1
    assert cuts > 5


def test_alone_it_waits_until_kernel_and_gateway_have_let_go(tmp_path: Path, backup: Path) -> None:
    data = tmp_path / "data"
    engine(data, "mine")
    restoring.swap_alone(data)  # nothing waits: nothing happens
    restoring.stage(data, backup, Keys())
    with EngineLock(data, "gateway"):
        assert holder(data, "gateway") == os.getpid()
        with pytest.raises(FolderInUse):
            restoring.swap_alone(data, patience=0.0)
        assert restoring.waits(data)
    assert holder(data, "gateway") == holder(data, "kernel") == 0
    restoring.swap_alone(data)
    assert variables(data) == ["from_backup"]
