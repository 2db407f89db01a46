"""``flowork usage``: what models have cost."""

from __future__ import annotations

import datetime
from typing import Any

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork usage", "flowork usage --by flow --by model --days 7", "flowork usage --flow greenhouse --by day --json")
@click.option(
    "--days", type=click.IntRange(1, 3660), default=30, show_default=True, help="So many days, today included."
)
@click.option("--by", type=click.Choice(["day", "flow", "node", "model"]), multiple=True, help="[default: model]")
@click.option("--flow", "flow_id", metavar="FLOW", help="Only what this flow has used.")
def command(session: Session, days: int, by: tuple[str, ...], flow_id: str | None) -> None:
    """Show what was used of models: calls, tokens, US dollars, and what is left of the budgets."""
    from appliance.ai.gateway.sums import summed, within

    told = session.call("model_usage")
    first = datetime.date.fromisoformat(told["today"]) - datetime.timedelta(days=days - 1)
    rows = _named(session, within(told["rows"], first.isoformat()))
    if flow_id is not None:
        session.store.flows.get(flow_id)
        rows = [row for row in rows if row["flow"] == flow_id]
    by = by or ("model",)
    items, total = summed(rows, by)
    if session.as_json:
        out.emit({"today": told["today"], "items": items, "total": total, "budgets": told["budgets"]})
        return
    if not items:
        out.say("no model was asked")
    else:
        head = (*by, "calls", "from memory", "failed", "tokens in", "out", "cost")
        lines = [(*(getattr(one, name) or "-" for name in by), *_figures(one)) for one in items]
        if len(items) > 1:
            lines.append(("all", *("" for _ in by[1:]), *_figures(total)))
        out.table(head, lines)
    if total.unpriced:
        session.note(f"nobody knows the price of {total.unpriced:,} of the tokens; an upstream's price_in says it")
    for budget in told["budgets"]:
        amount = "{:,.0f} tokens" if budget["setting"] == "model_tokens_day" else "${:,.4f}"
        spent, bound = (amount.format(budget[name]) for name in ("spent", "bound"))
        out.say(f"{budget['setting']}: {spent} of {bound}")


def _figures(one: Any) -> tuple[str, ...]:
    numbers = (one.calls, one.known, one.failed, one.tokens_in, one.tokens_out)
    return (*(f"{number:,}" for number in numbers), f"${one.cost:,.4f}")


def _named(session: Session, rows: list[Any]) -> list[dict[str, Any]]:
    """With the flows' ids in place of their numbers, those of deleted ones too."""
    from appliance.store.errors import NotFound

    ids = {0: ""}
    for row in rows:
        number = row["flow"]
        if number not in ids:
            try:
                ids[number] = session.store.flows.by_num(number).id
            except NotFound:
                ids[number] = f"flow-{number}"
    return [{**row, "flow": ids[row["flow"]]} for row in rows]
