"""Accounts of models: what is counted where, what is kept, and the budgets that stop."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from appliance.ai.gateway.accounts import Accounts, Budgets, BudgetSpent, Row, Use, Who
from appliance.ai.providers.openai import OpenAIConfig
from tests.ai.gateway.places import place

ASK = Who(flow=7, node="ask")


class Today:
    """A calendar that a test turns."""

    def __init__(self) -> None:
        self.date = datetime.date(2026, 11, 21)

    def __call__(self) -> datetime.date:
        return self.date


def use(cost: float = 0.0, tokens: int = 10) -> Use:
    return Use(calls=1, tokens_in=tokens, tokens_out=0, cost=cost)


def refused(accounts: Accounts, who: Who, cost: float, tokens: int = 10, **target: Any) -> str:
    with pytest.raises(BudgetSpent) as caught, accounts.held(who, place(**target), cost, tokens):
        raise AssertionError("it must not be asked")
    assert not caught.value.retryable
    return caught.value.message


def test_uses_are_added_up_by_flow_node_model_and_day() -> None:
    today = Today()
    accounts = Accounts(today)
    accounts.add(ASK, place(), use(0.1))
    accounts.add(ASK, place(), use(0.2))
    accounts.add(ASK, place(model="large"), use(1.0))
    accounts.add(Who(flow=0, node="architect"), place(), use())
    today.date += datetime.timedelta(days=1)
    accounts.add(ASK, place(), use(0.4))
    assert [(row.day, row.flow, row.node, row.model, row.use.calls, row.use.cost) for row in accounts.rows()] == [
        ("2026-11-21", 0, "architect", "cloud/small", 1, 0.0),
        ("2026-11-21", 7, "ask", "cloud/large", 1, 1.0),
        ("2026-11-21", 7, "ask", "cloud/small", 2, 0.3),
        ("2026-11-22", 7, "ask", "cloud/small", 1, 0.4),
    ]
    assert [row.day for row in accounts.rows("2026-11-22")] == ["2026-11-22"]


def test_what_changed_is_taken_once_and_another_engine_goes_on_with_it() -> None:
    accounts = Accounts(Today())
    accounts.add(ASK, place(), use(0.25))
    assert accounts.dirty() == [7]
    kept = accounts.take(7)
    assert (accounts.dirty(), accounts.take(7)) == ([], {})
    again = Accounts(Today())
    again.load(7, kept)
    assert again.rows() == accounts.rows()
    again.budgets = Budgets(day=0.3)
    assert "$0.30" in refused(again, ASK, 0.1)


def test_days_become_months_when_they_are_long_ago() -> None:
    today = Today()
    accounts = Accounts(today)
    for _ in range(40):
        accounts.add(ASK, place(), use(0.5))
        accounts.take(7)
        today.date += datetime.timedelta(days=1)
    today.date = datetime.date(2027, 1, 25)
    accounts.add(ASK, place(), use(1.0))
    changed = accounts.take(7)
    assert changed["2026-11-23"] is None, "older than 62 days"
    assert set(changed) == {"2026-11", "2027-01-25", *(f"2026-11-{day}" for day in range(21, 24))}
    rows = accounts.rows()
    assert [row.use.cost for row in rows if row.day == "2026-11"] == [1.5]
    assert sum(row.use.cost for row in rows) == 21.0
    again = Accounts(today)
    again.load(7, {row.day: {"ask\x1fcloud/small": [1, 0, 0, 10, 0, 0, row.use.cost, 0, 0.0]} for row in rows})
    assert sum(row.use.cost for row in again.rows()) == 21.0


def test_the_engines_budget_of_a_day_ends_with_the_day() -> None:
    today = Today()
    accounts = Accounts(today)
    accounts.budgets = Budgets(day=1.0)
    accounts.add(ASK, place(), use(0.95))
    message = refused(accounts, Who(flow=8, node="other"), 0.1)
    assert "the engine's budget for models today is $1.00, of which $0.9500 is spent" in message
    assert "model_budget_day" in message
    with accounts.held(ASK, place(), 0.04, 10):
        pass
    today.date += datetime.timedelta(days=1)
    with accounts.held(ASK, place(), 0.9, 10):
        pass


def test_a_month_is_longer_than_a_day() -> None:
    today = Today()
    accounts = Accounts(today)
    accounts.budgets = Budgets(month=1.0)
    accounts.add(ASK, place(), use(0.9))
    today.date += datetime.timedelta(days=5)
    assert "model_budget_month" in refused(accounts, ASK, 0.2)
    today.date = datetime.date(2026, 12, 1)
    with accounts.held(ASK, place(), 0.2, 10):
        pass


def test_a_flow_has_its_own_budget_or_that_of_all_flows() -> None:
    accounts = Accounts(Today())
    accounts.budgets = Budgets(flow_day=0.5)
    accounts.add(ASK, place(), use(0.45))
    assert "model_budget_flow" in refused(accounts, ASK, 0.1)
    with accounts.held(Who(flow=8, node="ask"), place(), 0.1, 10):
        pass
    assert "model_budget of the flow" in refused(accounts, Who(flow=8, node="ask", budget=0.01), 0.1)
    with accounts.held(Who(flow=7, node="ask", budget=0.0), place(), 0.1, 10):
        pass  # it may spend what it wants


def test_an_upstream_has_a_budget() -> None:
    accounts = Accounts(Today())
    accounts.add(ASK, place(), use(0.9))
    assert "'cloud' today" in refused(accounts, ASK, 0.2, budget_day=1.0)
    with accounts.held(ASK, place(name="other"), 0.2, 10):
        pass
    accounts.upstreams = {"cloud": place(budget_day=1.0).upstream, "other": place(name="other").upstream}
    assert accounts.left() == [{"setting": "budget_day of cloud", "bound": 1.0, "spent": 0.9, "held": 0.0}]


def test_questions_under_way_cannot_spend_the_rest_together() -> None:
    accounts = Accounts(Today())
    accounts.budgets = Budgets(day=1.0)
    with accounts.held(ASK, place(), 0.6, 10):
        refused(accounts, ASK, 0.6)
    with accounts.held(ASK, place(), 0.6, 10):
        pass


def test_what_is_free_is_always_allowed() -> None:
    accounts = Accounts(Today())
    accounts.budgets = Budgets(day=1.0)
    accounts.add(ASK, place(), use(2.0))
    with accounts.held(ASK, place(), 0.0, 10):
        pass


def test_tokens_that_leave_the_machine_have_a_bound() -> None:
    accounts = Accounts(Today())
    accounts.budgets = Budgets(tokens_day=100)
    near = place(name="near", url="http://localhost:11434/v1")
    accounts.upstreams = {"near": near.upstream}
    accounts.add(ASK, near, use(tokens=500))
    accounts.add(ASK, place(), use(tokens=80))
    assert "100 tokens may leave this machine in a day, and 80 have" in refused(accounts, ASK, 0.0, tokens=30)
    assert OpenAIConfig(url="http://127.0.0.1:1/v1").url
    with accounts.held(ASK, place(url="http://127.0.0.1:1/v1"), 0.0, 1000):
        pass  # it stays here


def test_rows_are_copies() -> None:
    accounts = Accounts(Today())
    accounts.add(ASK, place(), use(0.1))
    row: Row = accounts.rows()[0]
    row.use.cost = 99.0
    assert accounts.rows()[0].use.cost == 0.1
