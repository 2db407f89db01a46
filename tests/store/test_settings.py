"""Settings: defaults, bounds, the environment, and what a newer or older program left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.store.errors import NotFound
from appliance.store.metadata import Store, open_store
from appliance.store.settings import NAMES, Settings, schema
from appliance.store.tables import SETTING
from tests.store.stores import here, open_database


def test_defaults_hold_until_something_is_set(store: Store) -> None:
    assert store.settings.load() == Settings()
    assert (Settings().keep_days, Settings().keep_failed_days) == (30, 90)
    assert {setting.source for setting in store.settings.describe()} == {"default"}
    assert [setting.name for setting in store.settings.describe()] == list(NAMES)


def test_what_is_set_is_kept_and_can_be_reset(store: Store, data: Path) -> None:
    before = store.settings.change_counter()
    store.settings.set({"keep_days": 7, "session_hours": 12, "allowed_origins": ["https://a.example"]})
    other = open_store(data, environ=here())
    found = other.settings.load()
    assert (found.keep_days, found.session_hours, found.allowed_origins) == (7, 12, ("https://a.example",))
    assert other.settings.reset("keep_days").keep_days == 30
    assert other.settings.change_counter() == before + 2
    other.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_days", -1),
        ("keep_days", "7"),
        ("keep_days", True),
        ("queue_bound", 0),
        ("queue_bound", 1.5),
        ("durability", "none"),
        ("session_hours", 0),
        ("timezone", "Europe/Nowhere"),
        ("timezone", "../../etc/passwd"),
        ("timezone", "Europe"),
        ("allowed_origins", ["*"]),
        ("allowed_origins", "https://a.example"),
        ("max_request_bytes", 2**70),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name_and_nothing_is_kept(store: Store, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        store.settings.set({"keep_failed_days": 1, name: value})
    assert store.settings.load() == Settings()


def test_an_unknown_name_is_refused(store: Store) -> None:
    with pytest.raises(NotFound, match="keep_days"):
        store.settings.set({"keep_dayz": 1})
    with pytest.raises(NotFound):
        store.settings.reset("x")


def test_the_environment_wins(data: Path) -> None:
    environ = {
        "FLOWORK_KEEP_DAYS": "3.5",
        "FLOWORK_QUEUE_BOUND": "5",
        "FLOWORK_ALLOWED_ORIGINS": " https://a.example, http://b.example:8080 ,",
        "FLOWORK_TIMEZONE": "Europe/Berlin",
        "FLOWORK_SESSION_HOURS": "",
        "FLOWORK_DATA": "/elsewhere",
    }
    store = open_store(data, environ=environ)
    found = store.settings.set({"keep_days": 9})
    assert (found.keep_days, found.queue_bound, found.timezone) == (3.5, 5, "Europe/Berlin")
    assert found.allowed_origins == ("https://a.example", "http://b.example:8080")
    assert found.session_hours == 168
    sources = {setting.name: setting.source for setting in store.settings.describe()}
    assert sources["keep_days"] == "environment"
    assert sources["session_hours"] == "default"
    store.close()


def test_a_wrong_environment_variable_is_named(data: Path) -> None:
    for text in ("many", "-1", "nan"):
        store = open_store(data, environ={"FLOWORK_KEEP_DAYS": text})
        with pytest.raises(ConfigError, match="FLOWORK_KEEP_DAYS"):
            store.settings.load()
        store.close()


def test_a_stored_value_that_does_not_hold_any_more_stops_no_start(
    store: Store, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.settings.set({"keep_days": 7})
    db = open_database(data)
    with db.write():
        for name, value in {"queue_bound": "0", "gone": "1", "durability": "{"}.items():
            db.run(SETTING.insert({"name": name, "value": value}))
    db.close()
    found = store.settings.load()
    assert (found.keep_days, found.queue_bound, found.durability) == (7, 10_000, "power")
    assert {"queue_bound", "gone", "durability"} <= set(caplog.text.replace(":", " ").split())


def test_every_setting_has_help_bounds_and_a_default() -> None:
    properties = schema()["properties"]
    assert list(properties) == list(NAMES)
    for name, field in properties.items():
        assert field["description"], name
        assert "default" in field, name
    assert properties["queue_bound"]["minimum"] == 1
