"""What waits for people: dead letters, approvals, unverified steps."""

from __future__ import annotations

from typing import Any

from tests.gateway.engine import Home, wait_for
from tests.gateway.test_runs import ended, named, waiting
from tests.support.flows import compute, edges, node


def dead(home: Home, name: str) -> str:
    """A run that failed for good."""
    flow_id = home.save(named(name, compute("a", "payload + 1"), compute("b", "payload + 1")))
    run = home.run(flow_id, "text")
    assert run["state"] == "failed"
    return str(run["run"])


def test_dead_letters_are_listed_inspected_and_replayed_from_any_step(home: Home) -> None:
    run = dead(home, "Letters one")
    assert run in [item["id"] for item in home.owner.get("/dead-letters")["items"]]
    assert [item["id"] for item in home.owner.get("/dead-letters?flow=letters-one")["items"]] == [run]
    told = home.owner.get(f"/dead-letters/{run}")
    assert told["steps"][0]["error"]
    new = home.owner.do("POST", f"/dead-letters/{run}/replay", {"from": "a", "payload": 40})["run"]
    assert ended(home, new)["output"] == 42
    assert home.owner.get("/dead-letters?flow=letters-one")["items"] == []
    replayed = home.owner.get("/dead-letters?flow=letters-one&letter=replayed")["items"]
    assert [item["id"] for item in replayed] == [run]
    assert home.owner.get(f"/dead-letters/{run}")["letter_note"]["who"].startswith("token:")
    again = home.owner("POST", f"/dead-letters/{run}/replay", {})
    assert again.status_code == 409


def test_a_letter_is_discarded_with_a_reason(home: Home) -> None:
    run = dead(home, "Letters two")
    assert home.owner("POST", f"/dead-letters/{run}/discard", {}).status_code == 422
    assert home.owner("POST", f"/dead-letters/{run}/discard", {"reason": ""}).status_code == 422
    assert home.owner("POST", f"/dead-letters/{run}/discard", {"reason": "a test"}).status_code == 204
    told = home.owner.get(f"/dead-letters/{run}")
    assert (told["letter"], told["letter_note"]["reason"]) == ("discarded", "a test")
    entry = home.owner.get("/audit?action=dead_letter&limit=1")["items"][0]
    assert (entry["action"], entry["target"], entry["detail"]) == ("dead_letter.discard", run, {"reason": "a test"})


def test_many_letters_at_once(home: Home) -> None:
    runs = [dead(home, f"Letters many {index}") for index in range(3)]
    fine = home.run(home.save(named("No letter", compute("a", "1"))))["run"]
    assert home.owner("GET", f"/dead-letters/{fine}").status_code == 404
    assert home.owner("POST", "/dead-letters/bulk", {"action": "discard", "runs": runs}).status_code == 422
    result = home.owner.do("POST", "/dead-letters/bulk", {"action": "replay", "runs": [runs[0], fine]})
    assert (result["done"], len(result["made"]), result["failed"][0]["run"]) == ([runs[0]], 1, fine)
    result = home.owner.do("POST", "/dead-letters/bulk", {"action": "discard", "runs": runs[1:], "reason": "old"})
    assert result["done"] == runs[1:]


def asking(home: Home, name: str, workspace: str = "default") -> tuple[str, str]:
    """A flow that asks, and a run of it that waits."""
    flow_id = home.save(
        named(
            name,
            node("ask", "approval", {"title": "Open {{ payload.what }}?", "timeout": "1h"}),
            compute("yes", "'opened'"),
            compute("no", "'left shut'"),
            links=edges("ask>yes>yes", "ask>no>no"),
        ),
        workspace=workspace,
    )
    run = home.owner.do("POST", f"/flows/{flow_id}/runs", {"input": {"what": "the valve"}})["run"]
    waiting(home, run)
    return flow_id, run


def questions(home: Home, workspace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.owner.get(f"/approvals?workspace={workspace}")["items"]
    return found


def test_an_approval_is_answered_by_who_may(home: Home) -> None:
    flow_id, run = asking(home, "Asks", "people")
    (asked,) = questions(home, "people")
    assert (asked["run"], asked["flow"], asked["node"], asked["kind"]) == (run, flow_id, "ask", "approval")
    assert asked["ask"]["title"] == "Open the valve?"
    assert asked["payload"] == {"what": "the valve"} and asked["until"]
    assert run not in [other["run"] for other in questions(home, "default")]
    assert run in [other["run"] for other in questions(home, "*")]
    reader, _ = home.person("reader", "people")
    assert reader.get("/approvals?workspace=people")["items"]
    assert reader("POST", f"/approvals/{run}/ask/answer", {"answer": "yes"}).status_code == 403
    assert home.owner("POST", f"/approvals/{run}/ask/answer", {"answer": "perhaps"}).status_code == 409
    assert home.owner("POST", f"/approvals/{run}/nothing/answer", {"answer": "yes"}).status_code == 409
    assert home.owner("POST", f"/approvals/{run}/ask/decide", {"decision": "skip"}).status_code == 409
    runner, _ = home.person("runner", "people")
    who = runner.get("/session")["id"]
    assert runner("POST", f"/approvals/{run}/ask/answer", {"answer": "yes", "note": "go on"}).status_code == 204
    told = ended(home, run)
    assert told["output"] == "opened"
    woken = next(record for record in told["records"] if record["kind"] == "woken")
    assert woken["value"] == {"answer": "yes", "by": f"user:{who}", "note": "go on"}
    assert questions(home, "people") == []
    assert home.owner("POST", f"/approvals/{run}/ask/answer", {"answer": "no"}).status_code == 409
    entry = home.owner.get("/audit?action=approval&limit=1")["items"][0]
    assert (entry["actor"], entry["detail"]["answer"]) == (f"user:{who}", "yes")


def test_a_step_that_a_crash_cut_off_is_decided(make_home: Any) -> None:
    from appliance.engine import trace
    from appliance.engine.states import RunState
    from appliance.engine.trace import Record
    from appliance.store.journal import Batch, RunRow
    from appliance.store.places import make_journal
    from appliance.store.runids import to_text

    home = make_home()
    name = home.save(named("Cut off", node("b", "command", {"args": ["true"]}), compute("c", "'after'")))
    version = home.store.flows.numbered(name)
    # What a kernel leaves behind that is killed in the middle of a `once` step.
    journal = make_journal(home.data, writer=0)
    journal.open()
    number = journal.ids.next(home.gateway.now())
    event = trace.pack(["", {"id": "", "time": 1.0, "type": "manual", "trigger": "manual"}, 5, None])
    steps = trace.join([trace.encode(Record(trace.INTENT, 0, 1, 100, 0, "", None))])
    accepted = int(home.gateway.now() * 1e6)
    batch = Batch()
    batch.runs.append(
        RunRow(
            number,
            version.flow,
            version.id,
            "",
            RunState.RUNNING,
            accepted,
            None,
            "manual",
            event,
            None,
            None,
            None,
            0,
            steps,
        )
    )
    journal.commit(batch)
    journal.close()
    home.start_kernel()
    run = to_text(number)
    (asked,) = wait_for(lambda: questions(home, "default"), "the question")
    assert (asked["run"], asked["kind"], asked["ask"]["choices"]) == (run, "unverified", ["retry", "skip", "fail"])
    assert (asked["node"], asked["name"]) == ("b", "b")
    assert home.owner.get(f"/runs/{run}/steps/b")["state"] == "unverified"
    assert home.owner("POST", f"/approvals/{run}/b/decide", {"decision": "perhaps"}).status_code == 422
    assert home.owner("POST", f"/approvals/{run}/b/decide", {"decision": "skip"}).status_code == 204
    told = ended(home, run)
    assert (told["state"], told["output"]) == ("succeeded", "after")
