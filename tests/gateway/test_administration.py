"""What the pages for who looks after a box ask for: uses, last runs, roles, scopes, the machine, what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.security.roles import PERMISSIONS, SCOPES
from tests.gateway.engine import Home
from tests.gateway.test_runs import named
from tests.support.flows import compute


def used_by(home: Home, path: str) -> dict[str, list[str] | None]:
    return {item["name"]: item["used_by"] for item in home.owner.get(path)["items"]}


def test_variables_and_secrets_name_the_flows_that_mention_them(make_home: Callable[..., Home]) -> None:
    home = make_home()
    for name in ("level", "room", "unused"):
        home.owner.do("PUT", f"/variables/{name}?workspace=lab", {"value": 1})
        home.owner.do("PUT", f"/secrets/{name}?workspace=lab", {"value": "long enough"})
    one = home.save(named("One", compute("a", "vars.level + vars['room']|int")), workspace="lab")
    other = home.save(named("Other", compute("a", "[vars.level, secrets.room, myvars.unused]")), workspace="lab")
    home.save(named("Elsewhere", compute("a", "vars.unused")), workspace="default")
    home.save(named("Draft", compute("a", "vars.room")), workspace="lab", deploy=False)
    assert used_by(home, "/variables?workspace=lab&uses=true") == {
        "level": [one, other],
        "room": ["draft", one],
        "unused": [],
    }
    assert used_by(home, "/secrets?workspace=lab&uses=true") == {"level": [], "room": [other], "unused": []}
    assert used_by(home, "/variables?workspace=lab") == {"level": None, "room": None, "unused": None}
    # What is live counts beside what was saved last.
    home.owner.do("PUT", f"/flows/{one}", {"flow": named("One", compute("a", "1")), "base": 1})
    assert used_by(home, "/variables?workspace=lab&uses=true")["level"] == [one, other]
    home.owner.do("POST", f"/flows/{one}/deploy", {})
    assert used_by(home, "/variables?workspace=lab&uses=true")["level"] == [other]
    # Who may not see flows is not told their names.
    stranger = home.caller(["variables:read"], "lab")
    assert stranger.get("/variables?workspace=lab&uses=true")["items"][0]["used_by"] is None


def test_a_trigger_tells_the_run_that_it_has_started_last(home: Home) -> None:
    triggers = [{"id": "hand", "type": "manual", "config": {}}, {"id": "never", "type": "manual", "config": {}}]
    name = home.save(named("Fired", compute("a", "payload"), triggers=triggers))

    def last() -> dict[str, Any]:
        return {item["id"]: item["last"] for item in home.owner.get(f"/triggers?flow={name}&last=true")["items"]}

    assert last() == {"hand": None, "never": None}
    runs = [home.owner.do("POST", f"/flows/{name}/triggers/hand/test", {"payload": 1})["run"] for _ in range(2)]
    found = last()
    assert found["never"] is None
    assert found["hand"]["id"] == runs[1]
    assert found["hand"]["accepted"] > 1.7e9
    assert home.owner.get(f"/triggers?flow={name}")["items"][0]["last"] is None


def test_roles_say_what_they_may_and_who_may_give_them(home: Home) -> None:
    admin, _ = home.person("admin", "default")
    roles = {item["role"]: item for item in admin.get("/roles")["items"]}
    assert list(roles) == ["owner", "admin", "runner", "reader"]
    assert {role: item["grantable"] for role, item in roles.items()} == {
        "owner": False,
        "admin": True,
        "runner": True,
        "reader": True,
    }
    assert (
        "variables:write" in roles["admin"]["permissions"] and "variables:write" not in roles["runner"]["permissions"]
    )
    assert "settings:write" in roles["admin"]["engine"] and not roles["runner"]["engine"]
    assert sorted(roles["owner"]["permissions"] + roles["owner"]["engine"]) == sorted(PERMISSIONS)
    assert admin("GET", "/roles?workspace=*").status_code == 403
    reader, _ = home.person("reader", "default")
    assert reader("GET", "/roles").status_code == 403


def test_scopes_say_what_they_may_and_who_may_put_them_into_a_token(home: Home) -> None:
    admin, _ = home.person("admin", "default")
    scopes = {item["scope"]: item for item in admin.get("/scopes")["items"]}
    assert sorted(scopes) == sorted(SCOPES)
    assert scopes["runs:write"]["permissions"] and not scopes["runs:write"]["engine"]
    assert scopes["audit:read"]["engine"] == ["audit:read"]
    assert not scopes["backups"]["grantable"]
    for scope, item in scopes.items():
        made = admin("POST", "/tokens", {"name": "probe", "scopes": [scope]})
        assert (made.status_code == 201) == item["grantable"], scope


def test_the_description_says_what_each_endpoint_needs(home: Home) -> None:
    paths = home.owner.get("/openapi.json")["paths"]
    assert paths["/api/v1/variables/{name}"]["put"]["x-flowork-needs"] == {
        "permission": "variables:write",
        "role": "admin",
        "scope": "variables:write",
        "engine": False,
    }
    assert paths["/api/v1/audit"]["get"]["x-flowork-needs"]["engine"] is True
    assert "x-flowork-needs" not in paths["/api/v1/health"]["get"]


def test_settings_say_which_hold_from_the_next_start_on(home: Home) -> None:
    properties = home.owner.get("/settings")["schema"]["properties"]
    assert properties["durability"]["x-flowork-restart"] is True
    assert "x-flowork-restart" not in properties["keep_days"]
    for name, schema in properties.items():
        assert schema["title"] and schema["x-flowork-group"], name


def test_about_names_the_libraries_with_their_licences(home: Home) -> None:
    about = home.caller(["health:read"]).get("/about")
    assert about["engine"] == home.keys.engine.id
    libraries = {library["name"].lower(): library for library in about["libraries"]}
    assert {"flask", "werkzeug", "huey", "msgspec"} <= libraries.keys()
    assert "pytest" not in libraries
    without = [name for name, library in libraries.items() if not library["licence"]]
    assert without == []
    assert libraries["flask"]["licence"] == "BSD-3-Clause" and libraries["flask"]["homepage"].startswith("https://")
    assert libraries["huey"]["licence"] == "MIT"
    assert "Charles Leifer" in home.owner.get("/about/licences/huey")["text"]
    assert home.owner("GET", "/about/licences/pytest").status_code == 404
    assert home.caller(["flows:read"])("GET", "/about").status_code == 403
