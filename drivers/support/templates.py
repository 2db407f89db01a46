"""The templates that announced devices send along (``value_template`` and its kin), in Jinja2's sandbox.

They come from whoever may write to the broker, so that more is refused than the sandbox refuses by itself: loops,
macros, imports, long texts, variables made of variables, methods and filters that are not listed here, arithmetic
with anything but small numbers. What is left needs time and memory in proportion to the message. Filters and
functions that Home Assistant adds to Jinja2 and that value templates use are here under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from drivers.support.discovery import BadTemplate


def _words(text: str) -> list[str]:
    return text.split()


#: Bytes of a template, and of a message that one is applied to.
LONGEST, LARGEST = 4_000, 64_000
_MOST_BITS = 256
_FILTERS = _words(
    "abs capitalize count d default first float int items join last length lower max min replace round string sum "
    "title trim truncate upper"
)
_TESTS = _words(
    "boolean defined divisibleby eq equalto even false float ge gt in integer le lt mapping ne none number odd "
    "sequence string true undefined == != < > <= >="
)
_METHODS = _words("endswith get items keys lower lstrip rstrip split startswith strip title upper values")
_REFUSED = (
    nodes.For,
    nodes.Macro,
    nodes.CallBlock,
    nodes.FilterBlock,
    nodes.AssignBlock,
    nodes.Import,
    nodes.FromImport,
    nodes.Include,
    nodes.Extends,
    nodes.Block,
)


class Template:
    """One template. Rendering is safe from any thread."""

    def __init__(self, source: str) -> None:
        """Raises ``BadTemplate``."""
        if len(source) > LONGEST:
            raise BadTemplate(f"a template of more than {LONGEST:,} characters")
        try:
            tree = _environment.parse(source)
            _check(tree)
            self._template = _environment.from_string(tree)
        except (TemplateError, RecursionError, OverflowError) as exc:
            raise BadTemplate(f"the template {source[:200]!r}: {exc}") from None

    def render(self, names: Mapping[str, Any]) -> str:
        """Its text, without blanks around it. Raises ``BadTemplate``."""
        try:
            return self._template.render(names).strip()
        except Exception as exc:  # whatever a template does with a value it was not made for
            raise BadTemplate(f"{type(exc).__name__}: {exc}") from None

    def read(self, payload: str, **names: Any) -> str:
        """The value of a message, as Home Assistant's value templates see it: ``value`` and ``value_json``."""
        if len(payload) > LARGEST:
            raise BadTemplate(f"a message of more than {LARGEST:,} characters")
        names["value"] = payload
        try:
            names["value_json"] = json.loads(payload)
        except (ValueError, RecursionError):
            pass  # a template that asks for it finds it undefined
        return self.render(names)


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses what would make large values of small ones."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        text = operator == "+" and isinstance(left, str) and isinstance(right, str)
        numbers = all(isinstance(each, int | float) and abs(each) < 2**_MOST_BITS for each in (left, right))
        if not text and not (numbers and (operator != "**" or abs(right) < 16)):
            raise SecurityError(f"{operator} is for numbers")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        name = getattr(obj, "__name__", "this")
        method = isinstance(getattr(obj, "__self__", None), str | dict) and name in _METHODS
        if not method and obj not in self.globals.values():
            raise SecurityError(f"{name} is not for templates of devices")
        return super().call(context, obj, *args, **kwargs)


def _check(tree: nodes.Template) -> None:
    if refused := next(tree.find_all(_REFUSED), None):
        raise SecurityError(f"{type(refused).__name__.lower()} is not for templates of devices")
    assigned: set[str] = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    for assignment in tree.find_all(nodes.Assign):
        if any(name.ctx == "load" and name.name in assigned for name in assignment.node.find_all(nodes.Name)):
            raise SecurityError("a variable is not made of a variable")


def _number(kind: type[float]) -> Any:
    missing: Any = object()

    def convert(value: Any, default: Any = missing) -> Any:
        try:
            return int(float(value)) if kind is int else float(value)
        except (ValueError, TypeError, OverflowError):
            if default is missing:
                raise ValueError(f"{str(value)[:100]!r} is not a number") from None
            return default

    return convert


def _replace(value: Any, old: str, new: str) -> str:
    text = str(value)
    if not old or text.count(str(old)) * len(str(new)) > LARGEST:
        raise SecurityError("this replaces too much")
    return text.replace(str(old), str(new))


def _truth(value: Any, default: Any = False) -> Any:
    if isinstance(value, str):
        return {"on": True, "yes": True, "true": True, "1": True}.get(
            value.lower(), False if value.lower() in ("off", "no", "false", "0") else default
        )
    return bool(value)


def _is_number(value: Any) -> bool:
    try:
        return abs(float(value)) < float("inf")
    except (ValueError, TypeError):
        return False


def _iif(value: Any, yes: Any = True, no: Any = False, none: Any = False) -> Any:
    return none if value is None else yes if value else no


def _make() -> _Environment:
    environment = _Environment(autoescape=False)
    environment.globals = {"float": _number(float), "int": _number(int), "is_number": _is_number, "iif": _iif}
    environment.globals["bool"] = _truth
    kept = {name: environment.filters[name] for name in _FILTERS}
    environment.filters = kept | {
        "float": _number(float),
        "int": _number(int),
        "is_number": _is_number,
        "iif": _iif,
        "bool": _truth,
        "replace": _replace,
        "from_json": json.loads,
        "to_json": json.dumps,
        "tojson": json.dumps,
        "multiply": lambda value, by, default=0: float(value) * by if _is_number(value) else default,
        "add": lambda value, by, default=0: float(value) + by if _is_number(value) else default,
    }
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.tests["is_number"] = _is_number
    return environment


_environment = _make()
