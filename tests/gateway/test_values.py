"""Variables, secrets, settings, catalog, health, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.engine import Home
from tests.gateway.test_runs import named
from tests.support.flows import compute


def test_variables_are_seen_by_flows_at_once(home: Home) -> None:
    name = home.save(named("Reads", compute("a", "vars.level")), workspace="vars")
    for value in (1, [2, {"x": None}], "three"):
        made = home.owner.do("PUT", "/variables/level?workspace=vars", {"value": value})
        assert (made["name"], made["value"]) == ("level", value)
        assert home.run(name)["output"] == value
    assert [item["name"] for item in home.owner.get("/variables?workspace=vars")["items"]] == ["level"]
    assert home.owner.get("/variables/level?workspace=vars")["value"] == "three"
    assert home.owner("GET", "/variables/level").status_code == 404
    assert home.owner("DELETE", "/variables/level?workspace=vars").status_code == 204
    assert home.owner("DELETE", "/variables/level?workspace=vars").status_code == 404
    assert home.owner("PUT", "/variables/no-name", {"value": 1}).status_code == 422
    assert home.owner("PUT", "/variables/a", {}).status_code == 422
    assert home.owner("GET", "/variables?workspace=*").status_code == 404


def test_secrets_are_used_and_never_shown(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    planted = "hunter2-planted-secret"
    assert home.owner("PUT", "/secrets/login", {"value": planted}).status_code == 204
    name = home.save(named("Uses a secret", compute("a", "secrets.login|length"), compute("b", "secrets.login")))
    run = home.run(name)
    assert home.owner.get(f"/runs/{run['run']}/steps/a")["output"] == len(planted)
    listed = home.owner.get("/secrets")["items"]
    assert [item["name"] for item in listed] == ["login"]
    # Sent back to us in every way there is.
    home.owner("POST", f"/flows/{planted}/runs", {})
    home.owner("PUT", f"/variables/{planted}", {"value": 1})
    home.owner("POST", "/flows", {"flow": {"name": planted, "nodes": [{"id": planted, "type": planted}]}})
    home.owner("GET", f"/flows?{planted}=1")
    for path in (
        f"/runs/{run['run']}", "/runs", "/secrets", "/audit?limit=500", "/health", "/settings", "/variables",
        f"/flows/{planted}", f"/runs/{planted}", f"/flows?{planted}=1", f"/tokens?{planted}=", "/triggers",
    ):  # fmt: skip
        assert planted not in home.owner("GET", path).get_data(as_text=True), path
    for method, path, sent in [
        ("POST", "/flows", {"flow": {"name": "x", "nodes": [{"id": "a", "type": planted}]}}),
        ("POST", f"/flows/{name}/triggers/{planted}/test", {}),
        ("PUT", f"/users/{planted}", {"role": "reader"}),
        ("PATCH", "/settings", {"values": {planted: 1}}),
        ("POST", "/tokens", {"name": "x", "scopes": [planted]}),
        ("POST", "/events", {"name": "x", "flow": planted}),
    ]:
        response = home.owner(method, path, sent)
        assert response.status_code >= 400
        assert planted not in response.get_data(as_text=True), path
    assert planted not in caplog.text
    assert planted.encode() not in b"".join(file.read_bytes() for file in home.data.rglob("*") if file.is_file())
    assert home.owner("DELETE", "/secrets/login").status_code == 204
    assert home.owner("DELETE", "/secrets/login").status_code == 404
    assert home.owner("PUT", "/secrets/login", {"value": "abc"}).status_code == 422


def test_the_environment_is_never_shown(make_home: Callable[..., Home]) -> None:
    planted = "env-planted-password-123"
    home = make_home(environ={"SMTP_PASSWORD": planted})
    found = home.owner("GET", f"/flows/{planted}").get_data(as_text=True)
    assert planted not in found and "•••" in found


def test_settings_say_where_they_come_from(make_home: Callable[..., Home]) -> None:
    home = make_home(environ={"FLOWORK_KEEP_DAYS": "9"})
    found = home.owner.get("/settings")
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert (settings["keep_days"]["value"], settings["keep_days"]["source"]) == (9.0, "environment")
    assert found["schema"]["properties"]["rate_limit"]["description"]
    home.owner.do("PATCH", "/settings", {"values": {"rate_burst": 77, "allowed_origins": ["https://panel.example"]}})
    assert home.gateway.settings.rate_burst == 77
    assert home.owner("PATCH", "/settings", {"values": {"rate_burst": 1, "keep_days": "x"}}).status_code == 422
    assert home.gateway.settings.rate_burst == 77
    assert home.owner("PATCH", "/settings", {"values": {"nothing": 1}}).status_code == 404
    assert home.owner("PATCH", "/settings", {"values": {}}).status_code == 422
    assert home.owner("DELETE", "/settings/rate_burst").status_code == 204
    assert home.gateway.settings.rate_burst == 200
    assert [entry["action"] for entry in home.owner.get("/audit")["items"]] == ["settings.reset", "settings.set"]
    admin, _ = home.person("admin", "default")
    assert admin("GET", "/settings").status_code == 403


def test_the_catalog_has_forms_and_help(home: Home) -> None:
    catalog = home.caller(["flows:read"], "lab").get("/catalog")
    kinds = {entry["type"]: entry for entry in catalog["nodes"]}
    assert {"transform", "condition", "for_each", "http_request", "script"} <= kinds.keys()
    assert kinds["condition"]["ports"][-1] == "error"
    assert kinds["transform"]["summary"] and kinds["transform"]["schema"]
    assert {"manual", "webhook"} <= {entry["type"] for entry in catalog["triggers"]}


def test_health_tells_more_to_those_who_may_read_it(home: Home) -> None:
    assert home.anonymous.get("/health") == {"status": home.owner.get("/health")["status"]}
    everything = home.owner.get("/health")
    assert everything["kernel"]["pid"] and everything["version"] and "last_day" in everything["history"]
    stranger = home.caller(["flows:read"])
    assert stranger.get("/health").keys() == {"status"}


def test_health_finds_what_is_wrong_and_says_what_to_do(make_home: Callable[..., Home]) -> None:
    home = make_home()
    broken = home.data / "packages" / "nodes" / "mine.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("this is not python\n")
    mqtt = {"id": "m", "type": "mqtt", "config": {"topic": "a", "broker": "mqtt://127.0.0.1:9"}}
    home.save(named("No broker", compute("a", "1"), triggers=[mqtt]), workspace="lab")
    home.start_kernel()
    from tests.gateway.engine import wait_for

    def findings(caller: Any) -> dict[str, Any]:
        home.gateway.kernel_status.forget()
        return {finding["id"]: finding for finding in caller.get("/health")["findings"]}

    found = wait_for(lambda: (seen := findings(home.owner)).keys() >= {"broken-plugin", "trigger"} and seen, "both")
    assert "mine" in found["broken-plugin"]["text"]
    assert found["trigger"]["workspace"] == "lab"
    assert all(finding["mend"] and finding["level"] in {"warning", "critical"} for finding in found.values())
    assert home.anonymous.get("/health")["status"] in {"warning", "critical"}
    elsewhere = home.caller(["health:read"], "default")
    assert "trigger" not in findings(elsewhere) and "broken-plugin" in findings(elsewhere)


def test_a_repaired_database_is_said_until_it_was_read(make_home: Callable[..., Home], tmp_path: Any) -> None:
    home = make_home()
    data = home.data
    home.gateway.close()
    (data / "flowork.db").write_bytes(b"not a database" * 1000)
    for leftover in ("flowork.db-wal", "flowork.db-shm"):
        (data / leftover).unlink(missing_ok=True)
    again = Home(data)
    try:
        (finding,) = [found for found in again.owner.get("/health")["findings"] if found["id"] == "repaired"]
        assert finding["level"] == "critical" and "damaged" in finding["text"]
        assert again.owner("POST", "/health/repair").status_code == 204
        assert "repaired" not in [found["id"] for found in again.owner.get("/health")["findings"]]
    finally:
        again.close()


def test_metrics_are_prometheus_text(home: Home) -> None:
    home.run(home.save(named("Measured", compute("a", "1"))))
    response = home.caller(["metrics:read"], "default")("GET", "/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain; version=0.0.4")
    text = response.get_data(as_text=True)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert lines["flowork_kernel_up"] == "1.0"
    assert float(lines['flowork_runs_ended_total{state="succeeded"}']) >= 1
    assert float(lines['flowork_http_answers_total{noun="flows",status="2xx"}']) >= 1
    assert lines["flowork_live_sockets"] == "0.0"
