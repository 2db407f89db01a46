"""The council: rounds, votes, the judge, agreement, prompts that fit, and crashes behind any answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Event, NodeError, Park, Wake
from appliance.engine.states import RunState
from appliance.kernel.submission import Submission
from appliance.nodes.council import CouncilNode
from tests.ai.agents.scripted import Scripted
from tests.kernel.test_crash import Crash, crash_at
from tests.support.bench_engine import AnyWorld, Bench
from tests.support.context import FakeContext, resume_node, run_node
from tests.support.flows import flow, node

ROLES = [
    {"name": "planner", "instructions": "You plan."},
    {"name": "critic", "instructions": "You doubt.", "models": ["large"]},
    {"name": "engineer"},
]


def role_of(request: Any) -> str:
    return str(request.messages[0]["content"].split("You are the ")[1].split(" in a council")[0])


def council(models: Scripted, **config: Any) -> dict[str, Any]:
    """Run a council to its decision, resuming it as the engine would."""
    ctx = FakeContext(models=models)
    given = {"question": "Why is it dark?", "roles": ROLES, **config}
    result = run_node(CouncilNode(), given, None, ctx)
    while isinstance(result, Park):
        result = resume_node(CouncilNode(), given, None, Wake("time", memo=result.memo), ctx)
    assert isinstance(result, dict)
    return result


def opinions(best: dict[str, str]) -> Any:
    """Roles that answer with their name and the round; ``best`` says whom each holds the best."""

    def say(request: Any) -> dict[str, Any]:
        role = role_of(request)
        words = {"answer": f"{role} says", "best": best.get(role), "why": "because"}
        return {name: words[name] for name in request.schema["properties"]}

    return say


def test_roles_answer_revise_and_a_judge_decides() -> None:
    models = Scripted(opinions({"planner": "critic", "critic": "critic", "engineer": "planner", "judge": "critic"}))
    decided = council(models, rounds=2, judge_models=["wise"])
    assert (decided["text"], decided["by"], decided["why"]) == ("judge says", "judge", "because")
    assert [(one["round"], one["role"]) for one in decided["transcript"]] == [
        *((number, role["name"]) for number in range(3) for role in ROLES), (3, "judge"),
    ]  # fmt: skip
    assert decided["turns"] == 10
    assert decided["votes"] == {"planner": 1, "critic": 2, "engineer": 0}
    assert not decided["agreed"]
    assert [request.models for request in models.asked[:3]] == [(), ("large",), ()]
    assert models.asked[-1].models == ("wise",)
    # Nobody sees another's first answer before giving its own; from then on all see all.
    assert all("says" not in request.messages[1]["content"] for request in models.asked[:3])
    assert all(request.messages[1]["content"].count("says") == 3 for request in models.asked[3:])
    assert models.asked[0].schema["properties"].keys() == {"answer"}
    assert models.asked[3].schema["properties"]["best"]["enum"] == ["planner", "critic", "engineer"]


def test_a_vote_is_on_the_last_answers() -> None:
    models = Scripted(opinions({"planner": "engineer", "critic": "engineer", "engineer": "planner"}))
    decided = council(models, decide="vote", rounds=0)
    assert (decided["by"], decided["text"], decided["why"]) == ("engineer", "engineer says", "2 of 3 votes")
    assert decided["turns"] == 6


def test_a_tie_goes_to_the_first() -> None:
    models = Scripted(opinions({"planner": "engineer", "critic": "critic", "engineer": "planner"}))
    decided = council(models, decide="vote", rounds=1)
    assert (decided["by"], decided["why"]) == ("planner", "1 of 3 votes, listed before critic and engineer")


@pytest.mark.parametrize("decide", ["judge", "vote"])
def test_who_agree_are_not_asked_again(decide: str) -> None:
    models = Scripted(opinions(dict.fromkeys(["planner", "critic", "engineer"], "critic")))
    decided = council(models, decide=decide, rounds=8)
    assert (decided["by"], decided["agreed"], decided["turns"]) == ("critic", True, 6)
    assert decided["why"] == "all held it the best, after 1 round"


def asked_for(**words: Any) -> Any:
    """Whatever the schema asks for, out of these."""
    return lambda request: {name: words[name] for name in request.schema["properties"]}


def test_answers_can_have_a_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    decided = council(Scripted(asked_for(answer={"n": 4}, best="critic")), answer=schema, decide="vote")
    assert decided["data"] == {"n": 4}


def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    models = Scripted(
        {"answer": 3}, {"answer": "a", "best": "me"}, {"answer": "a"}, {"answer": "b"}, {"answer": "c"},
        {"best": "planner"},
    )  # fmt: skip
    assert council(models, decide="vote", rounds=0)["text"] == "a"
    with pytest.raises(NodeError, match="does not fit"):
        council(Scripted({"answer": 3}), attempts=2)


def test_an_answer_that_is_of_no_use_is_asked_for_again_where_the_next_one_is_another() -> None:
    told = {"text": "So", "fault": "cut off", "model": "m", "tokens_in": 1000, "tokens_out": 9, "cost": 0.5}
    cut = NodeError("it was cut at 9 tokens; raise max_tokens", retryable=False, detail=told)
    script = [cut, {"answer": "a"}, {"answer": "b"}, {"answer": "c"}, {"best": "planner"}]
    decided = council(Scripted(*script), decide="vote", rounds=0)
    assert (decided["text"], decided["turns"], decided["cost"]) == ("a", 7, 0.5)
    assert decided["tokens_in"] > 1000
    with pytest.raises(NodeError, match="planner: it was cut at 9 tokens; raise max_tokens"):
        council(Scripted(cut), attempts=2)
    models = Scripted(cut)
    with pytest.raises(NodeError, match="raise max_tokens"):
        council(models, temperature=0)
    assert len(models.asked) == 1


def test_long_answers_are_shortened_to_fit() -> None:
    models = Scripted(lambda request: asked_for(answer="word " * 500, best=role_of(request))(request), context=1200)
    council(models, decide="vote", rounds=1, max_tokens=128)
    sizes = [sum(len(message["content"]) for message in request.messages) // 4 for request in models.asked]
    assert len(sizes) == 9
    assert max(sizes) <= 1200 - 128
    with pytest.raises(NodeError, match="does not fit"):
        council(models, question="word " * 9000)


def test_names_are_checked() -> None:
    config = {"question": "x", "roles": [{"name": "a"}, {"name": "a"}, {"name": "judge"}], "answer": {"of": 1}}
    paths = [fault.path for fault in CouncilNode().check(config, AnyWorld())]  # type: ignore[arg-type]
    assert paths == ["roles[1].name", "roles[2].name", "answer.of"]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 11))
def test_no_answer_is_asked_for_twice(tmp_path: Path, crash: int, behind: bool) -> None:
    models = Scripted(opinions({"planner": "engineer", "critic": "critic", "engineer": "planner", "judge": "critic"}))
    shape = flow(node("c", "council", {"question": "q", "roles": ROLES}))

    def bench() -> Bench:
        made = Bench(tmp_path)
        made.services.models = lambda ctx: models
        made.deploy(1, shape)
        return made

    event = Event(payload="go", id="e", unique=True)
    first = bench()
    crash_at(first, crash, behind)
    try:
        first.engine.submit([Submission(1, "t1", "test", event)])
        first.turn(lambda: not first.engine.runs)
    except Crash:
        pass
    first.die()
    again = bench()
    again.recover()
    again.engine.submit([Submission(1, "t1", "test", event)])
    again.turn(lambda: not again.engine.runs)
    ((row, records),) = again.rows()
    assert row.state == RunState.SUCCEEDED
    assert records[-1].value["turns"] == 7
    # At most the one answer whose commit was cut off.
    assert len(models.asked) <= 7 + (0 if behind else 1)
    again.die()
