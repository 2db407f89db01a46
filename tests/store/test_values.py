"""Variables and the durable state of flows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.contracts import ConfigError
from appliance.store.errors import NotFound
from appliance.store.journal import StateOp
from appliance.store.metadata import Store, open_store
from tests.store.stores import Clock, body, here


def test_variables(store: Store, clock: Clock) -> None:
    before = store.values.change_counter()
    store.values.set_variable("home", "limit", 30)
    store.values.set_variable("home", "names", {"ü": [1, 2.5, None, "\x00"]})
    store.values.set_variable("work", "limit", "other")
    clock.time += 5
    store.values.set_variable("home", "limit", 31)
    found = store.values.variables("home")
    assert [(v.name, v.value, v.updated) for v in found] == [
        ("limit", 31, clock.time),
        ("names", {"ü": [1, 2.5, None, "\x00"]}, clock.time - 5),
    ]
    store.values.delete_variable("home", "limit")
    assert [v.value for v in store.values.variables("work")] == ["other"]
    assert store.values.change_counter() == before + 5
    with pytest.raises(NotFound):
        store.values.delete_variable("home", "limit")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "ä", "a" * 65, "a\n", "__import__('x')"])
def test_a_name_that_no_template_could_use_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        store.values.set_variable("home", name, 1)


def test_a_value_that_is_not_json_is_refused(store: Store) -> None:
    nested: list[object] = []
    nested.append(nested)
    for value in (object(), nested, "\ud800"):
        with pytest.raises(ConfigError, match="not plain JSON"):
            store.values.set_variable("home", "x", value)
    assert store.values.variables("home") == []


@pytest.mark.files_only
def test_state_is_taken_over_once_and_the_last_change_counts(store: Store, data: Path) -> None:
    store.flows.save("f", "default", body(), "a")
    num = store.flows.get("f").num
    assert (store.values.load_state(), store.values.state_version()) == ([], 0)
    batch = [
        StateOp(1, num, "a", b"1"),
        StateOp(2, num, "b", b"null"),
        StateOp(3, num, "a", b"2"),
        StateOp(4, num, "gone", b"1"),
        StateOp(5, num, "gone", None),
        StateOp(9, num, "later", b"9"),
    ]
    store.values.apply_state(batch, 5)
    expected = [StateOp(3, num, "a", b"2"), StateOp(2, num, "b", b"null")]
    assert sorted(store.values.load_state(), key=lambda op: op.key) == expected
    store.values.apply_state([StateOp(6, num, "b", None)], 6)
    store.values.apply_state(batch, 5)  # the same again, after a crash before the journal forgot it
    other = open_store(data, environ=here())
    assert other.values.load_state() == [expected[0]]
    assert other.values.state_version() == 6
    other.close()


@pytest.mark.files_only
def test_much_state_at_once(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    num = store.flows.get("f").num
    store.values.apply_state([StateOp(i, num, f"k{i}", b"%d" % i) for i in range(1, 2001)], 2000)
    assert len(store.values.load_state()) == 2000
    store.values.apply_state([StateOp(2000 + i, num, f"k{i}", None) for i in range(1, 2001)], 4000)
    assert store.values.load_state() == []


@pytest.mark.files_only
def test_state_of_flows_that_are_gone_is_no_obstacle(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    num = store.flows.get("f").num
    store.values.apply_state([StateOp(1, num, "a", b"1"), StateOp(2, 4711, "a", b"1")], 2)
    store.flows.delete("f", "a")
    store.values.apply_state([StateOp(3, num, "b", b"1")], 3)
    assert store.values.load_state() == []


@pytest.mark.files_only
def test_the_journal_keeps_what_the_good_copy_lacks(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    num = store.flows.get("f").num
    store.values.apply_state([StateOp(7, num, "a", b"1")], 7)
    assert store.values.droppable() == 0
    store.keep_good_copy(every=0)
    assert store.values.droppable() == 7
    store.values.apply_state([StateOp(8, num, "a", b"2")], 8)
    assert store.values.droppable() == 7


OPS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=OPS, cuts=st.lists(st.integers(0, 30), max_size=6))
def test_any_batches_give_the_state_that_the_changes_give_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int | None]], cuts: list[int]
) -> None:
    store = open_store(tmp_path_factory.mktemp("state") / "data", environ=here())
    store.flows.save("f", "default", body(), "a")
    num = store.flows.get("f").num
    ops = [StateOp(i, num, key, None if value is None else b"%d" % value) for i, (key, value) in enumerate(changes, 1)]
    for upto in [*cuts, len(ops)]:  # batches overlap, repeat and come late
        store.values.apply_state([op for op in ops if op.ver <= upto], min(upto, len(ops)))
    expected = dict(changes)
    found = {op.key: int(op.value or b"") for op in store.values.load_state()}
    store.close()
    assert found == {key: value for key, value in expected.items() if value is not None}
