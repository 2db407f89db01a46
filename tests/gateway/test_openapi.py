"""The OpenAPI document tells the truth: schemathesis calls every endpoint as it says, rightly and wrongly."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks

from appliance.fleet.peers import joining
from appliance.gateway.app import all_nouns
from appliance.gateway.openapi import document
from tests.gateway.engine import Home
from tests.gateway.test_runs import named, waiting
from tests.support.flows import compute, node

DOCUMENT = document(all_nouns(), "test", "flowork_session")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_every_endpoint_is_in_it_with_help() -> None:
    declared = {(endpoint.method, f"/api/v1{endpoint.path}") for noun in all_nouns() for endpoint in noun.endpoints}
    assert {(method, path) for method, path, _ in operations()} == declared
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for method, path, operation in operations():
        assert operation["summary"], (method, path)
        assert operation["tags"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])


def test_no_reference_is_broken_and_no_schema_is_unused() -> None:
    text = repr(DOCUMENT)
    used = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert used == DOCUMENT["components"]["schemas"].keys()


def test_it_is_served_as_it_is_made(home: Home) -> None:
    served = home.owner.get("/openapi.json")
    assert served["openapi"] == "3.1.0"
    assert served["paths"].keys() == DOCUMENT["paths"].keys()


@pytest.fixture(autouse=True)
def nobody_to_pair_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(lines: Any, host: str, *rest: Any) -> None:
        raise ConnectionRefusedError(f"nobody listens at {host}")

    monkeypatch.setattr(joining, "PATIENCE", 0.1)
    monkeypatch.setattr(joining.outgoing, "join", refused)


@pytest.fixture(scope="module")
def things(home: Home) -> dict[str, list[str]]:
    """What is there to be named, so that not every call ends at 404."""
    flow_id = home.save(named("Fuzzed", compute("a", "payload"), compute("b", "1 / 0")))
    parked = home.save(named("Fuzzed parked", node("ask", "approval", {"title": "?"})))
    run = home.run(flow_id, [1])["run"]
    waits = home.owner.do("POST", f"/flows/{parked}/runs", {})["run"]
    waiting(home, waits)
    home.owner.do("PUT", "/variables/fuzzed", {"value": 1})
    return {"flow": [flow_id, parked], "run": [run, waits], "name": ["fuzzed"], "node": ["a", "ask"]}


def no_fault_of_ours(context: Any, response: Any, case: schemathesis.Case) -> bool | None:
    """A server's error is one that the endpoint has declared (a model elsewhere does not answer), and never 500."""
    declared = case.operation.definition.raw["responses"]
    if response.status_code in (502, 503, 504) and str(response.status_code) in declared:
        return None
    return bool(not_a_server_error(context, response, case))


#: What every answer must hold to. Who is let in is proven in test_doors.
CHECKS = (
    no_fault_of_ours,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
)

#: Addresses that are also one of a thing, by their form: there, another method finds no such thing.
ALIKE = ("/bulk", "/validate", "/look")

#: But for one that would begin to compile for minutes, and to fetch what that takes.
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(method="POST", path="/api/v1/models/setup")


def _every_other(case: schemathesis.Case) -> bool:
    """Of half of all cases it is true, and of the same ones each time."""
    return zlib.crc32(repr((case.path_parameters, case.body)).encode()) % 2 == 0


def _path_is_good(case: schemathesis.Case) -> bool:
    """A path that is meant to be refused stays as it is."""
    part = case.meta.components.get(ParameterLocation.PATH) if case.meta is not None else None
    return part is None or part.mode.is_positive


@schema.parametrize()
@hypothesis.settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_every_endpoint_does_as_it_says(case: schemathesis.Case, home: Home, things: dict[str, list[str]]) -> None:
    for name, known in things.items():
        if name in (case.path_parameters or {}) and _every_other(case) and _path_is_good(case):
            case.path_parameters[name] = known[0]
    headers = {**home.owner.headers, "X-Flowork": "1"}
    response = case.call(app=home.app, headers=headers)
    alike = case.operation.path.endswith(ALIKE)
    case.validate_response(response, checks=[c for c in CHECKS if not alike or c is not checks.unsupported_method])
