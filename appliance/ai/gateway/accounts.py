"""Who has used how much of which model on which day, what it cost, and the budgets that stop it.

All of it is in memory; :meth:`Accounts.take` gives what changed, to be kept with the step that changed it, so counting
writes nothing of its own. A month after they ended, days are put together to months.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from appliance.ai.gateway.names import Target, Upstream
from appliance.contracts import FlowError

#: Days that are kept one by one.
DAYS = 62
_BETWEEN = "\x1f"
ENGINE = "engine"


class BudgetSpent(FlowError):
    """A budget for models is spent; the error names it."""

    id = "budget-spent"
    retryable = False


class Who(Struct, frozen=True, kw_only=True):
    """Who asks: a flow by its number (0: none), and the name under which its use is kept (a node, a token).

    ``budget`` is what the flow may spend in a day (US dollars), if it has a bound of its own.
    """

    flow: int
    node: str
    priority: int = 0
    budget: float | None = None


class Use(Struct, array_like=True):
    """Sums over calls. ``known`` answers came from the cache, ``failed`` calls gave none; ``cost`` is in US dollars,
    ``unpriced`` are tokens whose price nobody knows, ``seconds`` the time that was waited.
    """

    calls: int = 0
    known: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0

    def add(self, other: Use) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, round(getattr(self, name) + getattr(other, name), 9))


class Row(NamedTuple):
    """One line of the account; ``day`` is a date, or a month (``2026-09``) for what is longer ago."""

    day: str
    flow: int
    node: str
    model: str
    use: Use


class Budgets(Struct, frozen=True, kw_only=True):
    """Bounds in US dollars and tokens; 0 does not bind. Tokens count that leave the machine."""

    day: float = 0.0
    month: float = 0.0
    flow_day: float = 0.0
    tokens_day: int = 0


class _Sum:
    """What a scope has spent in a period, and what is under way on top of it at worst."""

    __slots__ = ("cost", "held", "held_tokens", "tokens")

    def __init__(self) -> None:
        self.cost = self.held = 0.0
        self.tokens = self.held_tokens = 0


class Accounts:
    """Safe from any thread. ``today`` is the date where the engine is."""

    def __init__(self, today: Callable[[], datetime.date]) -> None:
        self._today = today
        self._lock = threading.Lock()
        self._days: dict[int, dict[str, dict[tuple[str, str], Use]]] = {}
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._dirty: dict[int, set[str]] = {}
        self._day = ""
        self.budgets = Budgets()
        #: As they are set up, by name: whose budgets there are, and what is asked without leaving this machine.
        self.upstreams: Mapping[str, Upstream] = {}

    def load(self, flow: int, days: Mapping[str, Any]) -> None:
        """What was kept of a flow, as :meth:`take` gave it."""
        for day, rows in days.items():
            for key, raw in rows.items():
                node, _, model = key.partition(_BETWEEN)
                self._count(day, flow, node, model, msgspec.convert(raw, Use))

    def add(self, who: Who, target: Target, use: Use) -> None:
        """Put something to somebody's account."""
        with self._lock:
            day = self._today().isoformat()
            if day != self._day:
                # Only of today and of this month are the sums asked for again.
                self._day = day
                self._sums = {scope: sums for scope, sums in self._sums.items() if scope[1] in (day, day[:7])}
            self._count(day, who.flow, who.node, str(target), use)
            self._dirty.setdefault(who.flow, set()).add(day)

    def _count(self, day: str, flow: int, node: str, model: str, use: Use) -> None:
        self._days.setdefault(flow, {}).setdefault(day, {}).setdefault((node, model), Use()).add(use)
        upstream = model.partition("/")[0] if "/" in model else ""
        for scope in _scopes(day, flow, upstream):
            found = self._sums.setdefault(scope, _Sum())
            found.cost += use.cost
            found.tokens += (use.tokens_in + use.tokens_out) if self._leaves(upstream) else 0

    def _leaves(self, upstream: str) -> bool:
        """Whether what an upstream is asked leaves this machine; of one that is not set up any more it did."""
        known = self.upstreams.get(upstream)
        return bool(known.place) if known is not None else bool(upstream)

    # --- what is kept ----------------------------------------------------------------------------------

    def dirty(self) -> list[int]:
        """Flows whose account has changed since it was taken."""
        with self._lock:
            return list(self._dirty)

    def take(self, flow: int) -> dict[str, Any]:
        """What changed in a flow's account, by day; None for a day that is not kept any more."""
        with self._lock:
            days = self._dirty.pop(flow, None)
            if days is None:
                return {}
            days |= self._put_together(flow)
            kept = self._days.get(flow, {})
            return {day: _packed(kept[day]) if day in kept else None for day in days}

    def _put_together(self, flow: int) -> set[str]:
        """Make months of days that are long ago; the days and months that changed."""
        oldest = (self._today() - datetime.timedelta(days=DAYS)).isoformat()
        days, changed = self._days.get(flow, {}), set()
        for day in [day for day in days if len(day) == 10 and day < oldest]:
            month = days.setdefault(day[:7], {})
            for key, use in days.pop(day).items():
                month.setdefault(key, Use()).add(use)
            changed |= {day, day[:7]}
        return changed

    def rows(self, first: str = "") -> list[Row]:
        """Every line from a day on (``2026-11-01``), oldest first; months are there if they end behind it."""
        with self._lock:
            found = [
                Row(day, flow, node, model, msgspec.structs.replace(use))
                for flow, days in self._days.items()
                for day, rows in days.items()
                if day >= first[: len(day)]
                for (node, model), use in rows.items()
            ]
        return sorted(found)

    # --- budgets ---------------------------------------------------------------------------------------

    @contextmanager
    def held(self, who: Who, target: Target, cost: float, tokens: int) -> Iterator[None]:
        """Hold what a question may cost at worst while it is under way. Raises ``BudgetSpent``.

        So several questions at once cannot spend the rest of a budget together.
        """
        upstream = target.upstream
        away = tokens if upstream.place else 0
        with self._lock:
            day = self._today().isoformat()
            self._check(who, target, day, cost, away)
            sums = [self._sums.setdefault(scope, _Sum()) for scope in _scopes(day, who.flow, upstream.name)]
            for each in sums:
                each.held += cost
                each.held_tokens += away
        try:
            yield
        finally:
            with self._lock:
                for each in sums:
                    each.held -= cost
                    each.held_tokens -= away

    def left(self) -> list[dict[str, Any]]:
        """The engine's budgets that are set, and those of upstreams: setting, bound, what is spent and what is held for
        questions under way.
        """
        day = self._today().isoformat()
        budgets = self.budgets
        bounds = (
            ("model_budget_day", budgets.day, day),
            ("model_budget_month", budgets.month, day[:7]),
            ("model_tokens_day", budgets.tokens_day, day),
        )
        found = []
        with self._lock:
            for setting, bound, period in bounds:
                if bound:
                    spent = self._sums.get((ENGINE, period)) or _Sum()
                    tokens = setting == "model_tokens_day"
                    used, held = (spent.tokens, spent.held_tokens) if tokens else (spent.cost, spent.held)
                    found.append({"setting": setting, "bound": bound, "spent": used, "held": held})
            for name, upstream in sorted(self.upstreams.items()):
                if bound := upstream.limits.budget_day:
                    spent = self._sums.get((f"upstream {name}", day)) or _Sum()
                    setting = f"budget_day of {name}"
                    found.append({"setting": setting, "bound": bound, "spent": spent.cost, "held": spent.held})
        return found

    def _check(self, who: Who, target: Target, day: str, cost: float, tokens: int) -> None:
        upstream, budgets = target.upstream, self.budgets
        month = day[:7]
        bounds = [
            ("the engine's budget for models today", (ENGINE, day), budgets.day, "model_budget_day"),
            ("the engine's budget for models this month", (ENGINE, month), budgets.month, "model_budget_month"),
            (f"the budget of the upstream {upstream.name!r} today", (f"upstream {upstream.name}", day),
             upstream.limits.budget_day, "budget_day of the upstream"),
        ]  # fmt: skip
        if who.flow:
            own = who.budget is not None
            bound, place = (who.budget, "model_budget of the flow") if own else (budgets.flow_day, "model_budget_flow")
            bounds.append(("this flow's budget for models today", (f"flow {who.flow}", day), bound or 0.0, place))
        for what, scope, bound, place in bounds if cost else ():
            found = self._sums.get(scope) or _Sum()
            if bound and found.cost + found.held + cost > bound:
                message = (
                    f"{what} is ${bound:.2f}, of which ${found.cost + found.held:.4f} is spent; the longest "
                    f"answer of {target} would cost another ${cost:.4f}. Raise it (setting {place}), allow shorter "
                    "answers (max_tokens), or name a model of this machine behind it, which costs nothing"
                )
                raise BudgetSpent(message, detail={"budget": place, "bound": bound, "spent": found.cost})
        found = self._sums.get((ENGINE, day)) or _Sum()
        if tokens and budgets.tokens_day and found.tokens + found.held_tokens + tokens > budgets.tokens_day:
            message = (
                f"{budgets.tokens_day:,} tokens may leave this machine in a day, and {found.tokens:,} have; {target} "
                f"may take another {tokens:,} (setting model_tokens_day)"
            )
            detail = {"budget": "model_tokens_day", "bound": budgets.tokens_day, "spent": found.tokens}
            raise BudgetSpent(message, detail=detail)


def _scopes(day: str, flow: int, upstream: str) -> list[tuple[str, str]]:
    """Whose sums something counts for; a day that is a month already counts for no day."""
    found = [(ENGINE, day[:7])]
    if len(day) == 10:
        found += [(ENGINE, day), (f"flow {flow}", day), (f"upstream {upstream}", day)]
    return found


def _packed(rows: Mapping[tuple[str, str], Use]) -> dict[str, Any]:
    return {_BETWEEN.join(key): msgspec.to_builtins(use) for key, use in rows.items()}
