"""Which kernel a flow belongs to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.sharing.spread import Host, Placed, groups_of, names_in, spread


def placed(num: int, body: Any = None, tags: tuple[str, ...] = (), workspace: str = "home") -> Placed:
    return Placed(num, f"flow-{num}", workspace, tags, names_in(body or {}))


def calls(*flows: str) -> dict[str, Any]:
    return {"nodes": [{"id": f"n{i}", "type": "subflow", "config": {"flow": flow}} for i, flow in enumerate(flows)]}


def hosts(count: int) -> list[Host]:
    return [Host(number, f"box-{number}") for number in range(count)]


def numbers(groups: list[list[Placed]]) -> list[list[int]]:
    return [[flow.num for flow in group] for group in groups]


def test_flows_that_meet_in_memory_stay_together() -> None:
    flows = [placed(1, calls("flow-3")), placed(2), placed(3), placed(4, calls("flow-1", "not-there"))]
    assert numbers(groups_of(flows)) == [[1, 3, 4], [2]]


def test_a_flow_that_is_only_called_like_another_is_free() -> None:
    assert numbers(groups_of([placed(1), placed(2, {"name": "flow-1", "nodes": [{"id": "flow-1"}]})])) == [[1], [2]]


def test_workspaces_do_not_meet() -> None:
    flows = [placed(1, calls("flow-2")), placed(2, workspace="office")]
    assert numbers(groups_of(flows)) == [[1], [2]]


def test_a_flow_that_is_chosen_at_run_time_may_be_any() -> None:
    flows = [placed(1), placed(2, calls("{{ payload.flow }}")), placed(3), placed(4, workspace="office")]
    assert numbers(groups_of(flows)) == [[1, 2, 3], [4]]


def test_who_follows_all_flows_is_with_all_of_them() -> None:
    for config in ({}, {"flow": "*"}, {"on": ["failed"]}):
        follower = placed(2, {"triggers": [{"id": "t", "type": "flow", "config": config}]})
        assert numbers(groups_of([placed(1), follower, placed(3)])) == [[1, 2, 3]]


def test_tools_of_an_agent_and_flows_in_a_body_count() -> None:
    agent = {"nodes": [{"id": "a", "type": "ai_agent", "config": {"tools": [{"flow": "flow-2", "about": "x {y}"}]}}]}
    inner = {"nodes": [{"id": "each", "type": "for_each", "config": {"body": calls("flow-4")}}]}
    assert numbers(groups_of([placed(1, agent), placed(2), placed(3, inner), placed(4)])) == [[1, 2], [3, 4]]


@given(count=st.integers(1, 60), kernels=st.integers(1, 9))
def test_groups_are_spread_evenly_and_by_everybody_alike(count: int, kernels: int) -> None:
    groups = groups_of([placed(number) for number in range(count)])
    plan = spread(groups, hosts(kernels))
    assert plan == spread(list(reversed(groups)), list(reversed(hosts(kernels))))
    loads = Counter(plan.values())
    assert sum(loads.values()) == count
    assert max(loads.values()) <= -(-count // kernels)


def test_a_kernel_that_goes_moves_little_but_its_own() -> None:
    groups = groups_of([placed(number) for number in range(200)])
    before, after = spread(groups, hosts(5)), spread(groups, hosts(5)[:4])
    moved = sum(before[flow] != after[flow] for flow in before)
    own = sum(writer == 4 for writer in before.values())
    assert own <= moved <= own + 40


def test_a_tag_binds_a_flow_and_who_belongs_to_it_to_a_machine() -> None:
    flows = [placed(1, calls("flow-2")), placed(2, tags=("on:box-1",)), placed(3, tags=("on:nowhere",)), placed(4)]
    plan = spread(groups_of(flows), hosts(3))
    assert plan[1] == plan[2] == 1
    assert 3 not in plan
    assert 4 in plan


def test_without_kernels_nothing_is_placed() -> None:
    assert spread(groups_of([placed(1)]), []) == {}
