"""Who is let in: every address needs an identity but a known few, and permissions hold by workspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.gateway.app import all_nouns
from appliance.gateway.routing import PREFIX, Call, Nothing, Noun
from appliance.security.roles import PERMISSIONS
from tests.gateway.engine import Caller, Home
from tests.support.flows import compute, flow

#: What anybody may call, with the status that a request without anything gets.
OPEN = {
    ("GET", "/api/v1/health"): 200,
    ("GET", "/api/v1/session"): 200,
    ("GET", "/api/v1/session/challenge"): 422,
    ("POST", "/api/v1/session"): 415,
    ("DELETE", "/api/v1/session"): 204,
    ("GET", "/"): 200,
    ("GET", "/docs/errors"): 200,
    # Not before HTTPS is on; then what every phone is to have.
    ("GET", "/certificate"): 404,
    ("GET", "/certificate/flowork.crt"): 404,
    ("GET", "/certificate/flowork.pem"): 404,
    ("GET", "/<path:path>"): 404,
}


def routes(home: Home) -> list[tuple[str, str]]:
    """Every method and rule of the application."""
    return [
        (method, rule.rule)
        for rule in home.app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


def address(rule: str) -> str:
    """An address that a rule takes."""
    for name in (
        "flow",
        "name",
        "node",
        "trigger",
        "address",
        "chat",
        "number",
        "digest",
        "path",
        "token",
        "run",
        "other",
        "agent",
        "device",
        "model",
        "pull",
        "peer",
    ):
        rule = rule.replace(f"<{name}>", "1").replace(f"<path:{name}>", "some.file")
    assert "<" not in rule, rule
    return rule


def test_every_address_needs_an_identity_but_a_known_few(home: Home) -> None:
    seen = {}
    for method, rule in routes(home):
        with home.client().open(address(rule), method=method) as response:  # closes a file that is served
            seen[method, rule] = response.status_code
        if (method, rule) not in OPEN:
            assert response.status_code == 401, f"{method} {rule} let a stranger in: {response.status_code}"
            assert response.content_type == "application/problem+json"
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert {key: seen[key] for key in OPEN} == OPEN


def test_every_permission_that_is_named_exists_and_is_used_somewhere() -> None:
    named = {endpoint.permission for noun in all_nouns() for endpoint in noun.endpoints if endpoint.permission}
    assert named <= PERMISSIONS.keys()
    later = {"runs:delete"}
    assert PERMISSIONS.keys() - named == later


def test_a_token_without_the_scope_is_refused_everywhere(home: Home) -> None:
    nothing_much = home.caller(["events:write"])
    for method, rule in routes(home):
        if (method, rule) in OPEN:
            continue
        response = nothing_much.client.open(address(rule), method=method, headers=nothing_much.headers, json={})
        assert response.status_code in {403, 404, 422}, f"{method} {rule}: {response.status_code}"
        assert response.get_json()["type"].startswith("/docs/errors#")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": "Bearer flw_" + "0" * 13 + "_" + "0" * 52}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Authorization": "Flowork address=0x00"}, 401),
        ({"Cookie": "other=1"}, 401),
    ],
)
def test_what_proves_nothing_lets_nobody_in(home: Home, headers: dict[str, str], status: int) -> None:
    response = home.client().get("/api/v1/flows", headers=headers)
    assert response.status_code == status
    assert "nonsense" not in response.get_data(as_text=True)


def test_a_revoked_and_an_expired_token_are_no_tokens(make_home: Callable[..., Home]) -> None:
    home = make_home()
    made = home.owner.do("POST", "/tokens", {"name": "one", "scopes": ["flows:read"], "lifetime": 1e-9})
    expired = Caller(home.client(), {"Authorization": f"Bearer {made['token']}"})
    assert "expired" in expired("GET", "/flows").get_json()["detail"]
    made = home.owner.do("POST", "/tokens", {"name": "two", "scopes": ["flows:read"]})
    token = Caller(home.client(), {"Authorization": f"Bearer {made['token']}"})
    assert token.get("/flows")["items"] == []
    home.owner.do("DELETE", f"/tokens/{made['id']}")
    home.owner.do("DELETE", f"/tokens/{made['id']}")
    assert "revoked" in token("GET", "/flows").get_json()["detail"]


def test_roles_hold_in_their_workspace(home: Home) -> None:
    one = home.save({**flow(compute("a", "1")), "name": "Of lab one"}, workspace="lab1")
    two = home.save({**flow(compute("a", "1")), "name": "Of lab two"}, workspace="lab2")
    reader, _ = home.person("reader", "lab1")
    assert [item["id"] for item in reader.get("/flows?workspace=lab1")["items"]] == [one]
    assert reader.get(f"/flows/{one}")["workspace"] == "lab1"
    assert reader("GET", "/flows?workspace=lab2").status_code == 403
    assert reader("GET", "/flows?workspace=*").status_code == 403
    # What somebody may not see is not there.
    assert reader("GET", f"/flows/{two}").status_code == 404
    runner, _ = home.person("runner", "lab1")
    assert runner("POST", f"/flows/{two}/runs", {}).status_code == 404
    assert runner("POST", f"/flows/{one}/runs", {}).status_code == 202
    # What somebody may see and not do is refused.
    refused = reader("POST", f"/flows/{one}/runs", {})
    assert refused.status_code == 403
    assert "runner" in refused.get_json()["detail"]


def test_runs_are_seen_only_where_one_may(home: Home) -> None:
    mine = home.save({**flow(compute("a", "1")), "name": "Runs of lab three"}, workspace="lab3")
    run = home.run(mine)["run"]
    reader, _ = home.person("reader", "lab4")
    other, _ = home.person("reader", "lab3")
    assert reader("GET", f"/runs/{run}").status_code == 404
    assert reader.get("/runs?workspace=lab4")["items"] == []
    assert other.get(f"/runs/{run}")["id"] == run
    assert [item["id"] for item in other.get("/runs?workspace=lab3")["items"]] == [run]


def test_who_may_start_but_not_read_can_start(home: Home) -> None:
    name = home.save({**flow(compute("a", "1")), "name": "Start only"})
    starter = home.caller(["runs:write"], "default")
    run = starter.do("POST", f"/flows/{name}/runs", {"wait": 10})
    assert run["state"] == "succeeded"
    assert starter("GET", f"/flows/{name}").status_code == 403
    assert starter("GET", f"/runs/{run['run']}").status_code == 403


def test_a_role_that_is_taken_away_ends_at_once(home: Home) -> None:
    person, key = home.person("reader")
    assert person("GET", "/flows").status_code == 200
    from appliance.security.wallet import address_of

    home.owner.do("DELETE", f"/users/{address_of(key)}")
    assert person("GET", "/flows").status_code == 401


class TestDeclarations:
    """An endpoint that forgets something does not even load."""

    def declare(self, **options: Any) -> None:
        noun = Noun("things", "Things.")

        def things(call: Call[Nothing, Nothing]) -> None:
            """Do it."""

        method = options.pop("method", "GET")
        noun.route(method, options.pop("path", "/things"), **options)(things)

    def test_needs_a_permission_or_a_reason_for_none(self) -> None:
        with pytest.raises(TypeError, match="permission"):
            self.declare()

    def test_needs_a_workspace_for_the_permission(self) -> None:
        with pytest.raises(TypeError, match="workspace"):
            self.declare(permission="flows:read")

    def test_needs_an_audit_action_or_a_reason_for_none(self) -> None:
        with pytest.raises(TypeError, match="audit"):
            self.declare(method="POST", permission="flows:write", anywhere=True)

    def test_needs_the_parameters_of_its_path(self) -> None:
        with pytest.raises(TypeError, match="parameters"):
            self.declare(path="/things/{thing}", public="so")

    def test_may_be_right(self) -> None:
        self.declare(public="so")
        assert PREFIX == "/api/v1"
