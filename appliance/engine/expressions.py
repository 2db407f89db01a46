"""Templates and expressions: Jinja2 in a sandbox, with a budget of loops, calls and bytes.

Text in a config is a template; text that is exactly one ``{{ … }}`` yields the native value. Everything
is compiled once and cached by its source. The sandbox forbids reaching Python's inside (Jinja's own
``SandboxedEnvironment``); the budget stops what the sandbox allows but a small box cannot afford.
Names that a template reads are known after compiling, so that a step only prepares what is used.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from jinja2 import Template, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context as JinjaContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from appliance.contracts import ExpressionError

MAX_SOURCE = 200_000
MAX_ITERATIONS = 100_000
MAX_VALUE = 4_000_000
MAX_BITS = 4_096
MAX_SECONDS = 0.5
_WIDE = re.compile(r"\d{5,}")
_PADDING = {"ljust", "rjust", "center", "zfill", "expandtabs"}


class _Budget(threading.local):
    """What the template running on this thread may still spend."""

    steps = MAX_ITERATIONS
    size = MAX_VALUE
    deadline = math.inf

    def reset(self, source_length: int) -> None:
        self.steps = min(MAX_ITERATIONS, 8 * MAX_VALUE // max(source_length, 1))
        self.size = MAX_VALUE
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise ExpressionError(f"the template loops or calls more than {MAX_ITERATIONS:,} times")
        if not self.steps & 255 and time.monotonic() > self.deadline:
            raise ExpressionError(f"the template needs more than {MAX_SECONDS:g} s")

    def spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise ExpressionError(f"the template makes more than {MAX_VALUE:,} bytes")


_budget = _Budget()


class Missing(Undefined):
    """A name that is not there: false in a condition, an error when it is printed or compared."""

    __slots__ = ()

    def __str__(self) -> str:
        self._fail_with_undefined_error()


def _bounded(value: Any) -> Any:
    """Refuse a value that grew past the bound (a string or list built by doubling)."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_VALUE:
        raise ExpressionError(f"a value grows past {MAX_VALUE:,} items or bytes")
    return value


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _budget.step()
        yield value


def _finalize(value: Any) -> Any:
    if isinstance(value, str):
        _budget.spend(len(value))
    elif isinstance(value, list | dict | tuple):
        text = json.dumps(value, ensure_ascii=False, default=str)
        _budget.spend(len(text))
        return text
    elif value is None:
        return ""
    elif isinstance(value, bool):
        return "true" if value else "false"
    return value


def _check_format(template: str) -> None:
    if _WIDE.search(template):
        raise ExpressionError("a width in the format text is too large")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["**", "*", "%", "+"])

    def call_binop(self, context: JinjaContext, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return _bounded(left + right)
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator in "**":
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: JinjaContext, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _budget.step()
        # str.format arrives wrapped by the sandbox.
        obj_inside = getattr(obj, "__wrapped__", obj)
        owner = getattr(obj_inside, "__self__", None)
        if isinstance(owner, str | bytes):
            _check_method(owner, getattr(obj, "__name__", ""), args)
        return super().call(context, obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `payload.items` means the key first: people write JSON, not Python.
        if isinstance(obj, dict):
            try:
                return obj[attribute]
            except KeyError:
                if attribute not in _DICT_METHODS:
                    return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


_DICT_METHODS = {"items", "keys", "values", "get"}


def _check_product(operator: str, left: Any, right: Any) -> None:
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise ExpressionError("the power is too large")
        return
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
            if len(one) * other > MAX_VALUE:
                raise ExpressionError("the repetition is too long")
        elif isinstance(one, int) and isinstance(other, int) and one.bit_length() > MAX_BITS:
            raise ExpressionError("the number is too large")


def _check_method(owner: str | bytes, name: str, args: tuple[Any, ...]) -> None:
    if name in _PADDING and any(isinstance(a, int) and a > 10_000 for a in args):
        raise ExpressionError(f"the width of {name}() is too large")
    if name in {"format", "format_map"} and isinstance(owner, str):
        _check_format(owner)
    if name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    if name == "join" and args and isinstance(args[0], list | tuple):
        total = sum(len(a) for a in args[0] if isinstance(a, str)) + len(owner) * len(args[0])
        if total > MAX_VALUE:
            raise ExpressionError("the joined text is too long")


def _check_replace(text: Any, old: Any, new: Any) -> None:
    if isinstance(text, str | bytes) and len(text) + text.count(old) * len(new) > MAX_VALUE:
        raise ExpressionError("the replaced text is too long")


def _filter_replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, new = str(value), str(new)
    _check_replace(text, str(old), new)
    return text.replace(str(old), new, count)


def _filter_join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts: list[str] = []
    size = 0
    for value in values:
        part = str(value[attribute] if attribute else _finalize(value))
        size += len(part) + len(separator)
        if size > MAX_VALUE:
            raise ExpressionError("the joined text is too long")
        parts.append(part)
    return separator.join(parts)


def _filter_from_json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as exc:
        raise ExpressionError(f"from_json: {exc}") from None


def _filter_time(value: Any) -> datetime.datetime:
    """A moment from Unix seconds or ISO 8601 text (UTC if it names no zone)."""
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, int | float):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    moment = datetime.datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


_FILTERS: dict[str, Callable[..., Any]] = {
    "_counted": _counted,
    "_bounded": _bounded,
    "replace": _filter_replace,
    "join": _filter_join,
    "to_json": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    "tojson": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    "from_json": _filter_from_json,
    "time": _filter_time,
    "timestamp": lambda value: _filter_time(value).timestamp(),
    "b64encode": lambda value: base64.b64encode(_to_bytes(value)).decode(),
    "b64decode": lambda value: base64.b64decode(_to_bytes(value)).decode("utf-8", "replace"),
    "sha256": lambda value: hashlib.sha256(_to_bytes(value)).hexdigest(),
}
# Padding filters of Jinja that take any width, and helpers that belong to web pages.
_REMOVED = ("center", "indent", "wordwrap", "format", "urlize", "xmlattr", "pprint", "batch", "slice")


@functools.cache
def _environment() -> _Environment:
    env = _Environment(undefined=Missing, finalize=_finalize, autoescape=False, keep_trailing_newline=True)
    env.globals.clear()
    env.globals.update(range=env_range, min=min, max=max, abs=abs, round=round, len=len, int=int, float=float)
    env.globals["namespace"] = Namespace
    for name in _REMOVED:
        env.filters.pop(name, None)
    env.filters.update(_FILTERS)
    return env


def env_range(*args: int) -> range:
    """``range`` bounded like every loop."""
    result = range(*args)
    if len(result) > MAX_ITERATIONS:
        raise ExpressionError(f"range() is longer than {MAX_ITERATIONS:,}")
    return result


def _instrument(tree: nodes.Template) -> bool:
    """Wrap loops and concatenations in their budgets; True if the template can spend much at all."""
    heavy = False
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        heavy = True
    for parent in list(tree.find_all(nodes.Node)):
        for name, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                wrapped = nodes.Filter(value, "_bounded", [], [], None, None, lineno=value.lineno)
                setattr(parent, name, wrapped)
    return heavy or any(True for _ in tree.find_all((nodes.Call, nodes.Macro, nodes.Filter)))


def _names(tree: nodes.Template) -> frozenset[str]:
    return frozenset(name.name for name in tree.find_all(nodes.Name) if name.ctx == "load")


class _Context(JinjaContext):
    """Jinja's own context without what our templates have none of (blocks, exports): a third of its cost."""

    def __init__(self, template: Template, names: Mapping[str, Any]) -> None:
        env = template.environment
        self.parent = {**env.globals, **names}
        self.vars = {}
        self.environment = env
        self.eval_ctx = _eval_context()
        self.exported_vars = set()
        self.name = None
        self.blocks = {}
        self.globals_keys = _global_names()


@functools.cache
def _eval_context() -> EvalContext:
    return EvalContext(_environment(), None)


@functools.cache
def _global_names() -> set[str]:
    return set(_environment().globals)


class Compiled:
    """A compiled template or expression: call it with the names it may read."""

    __slots__ = ("_expression", "_heavy", "_root", "_template", "names", "source")

    def __init__(self, source: str, tree: nodes.Template, expression: bool) -> None:
        env = _environment()
        self.source = source
        self.names = _names(tree)
        self._heavy = _instrument(tree)
        self._expression = expression
        self._template = env.from_string(tree)
        self._root = self._template.root_render_func

    def __call__(self, names: Mapping[str, Any]) -> Any:
        """The value. Raises ``ExpressionError`` saying what failed in which text."""
        if self._heavy:
            _budget.reset(len(self.source))
        else:
            _budget.size = MAX_VALUE
        try:
            return self._evaluate(names)
        except ExpressionError as exc:
            raise ExpressionError(f"{exc.message} (in {_short(self.source)})") from None
        except UndefinedError as exc:
            raise ExpressionError(f"{exc.message} (in {_short(self.source)})") from None
        except SecurityError as exc:
            raise ExpressionError(f"not allowed: {exc} (in {_short(self.source)})") from None
        except RecursionError:
            raise ExpressionError(f"nested too deeply (in {_short(self.source)})") from None
        except Exception as exc:
            raise ExpressionError(f"{type(exc).__name__}: {exc} (in {_short(self.source)})") from None

    def _evaluate(self, names: Mapping[str, Any]) -> Any:
        context = _Context(self._template, names)
        parts = self._root(context)
        if not self._expression:
            return "".join(parts)
        for _ in parts:
            pass
        value = context.vars["result"]
        return None if isinstance(value, Undefined) else value


def _short(source: str) -> str:
    text = " ".join(source.split())
    return repr(text if len(text) <= 80 else text[:77] + "…")


def _syntax(exc: TemplateSyntaxError, source: str) -> ExpressionError:
    message = (exc.message or "").replace("'end of template'", "end")
    return ExpressionError(f"line {exc.lineno}: {message} (in {_short(source)})")


def _guard(source: str) -> None:
    if len(source) > MAX_SOURCE:
        raise ExpressionError(f"the text is longer than {MAX_SOURCE:,} characters")


def _parse(source: str, expression: bool) -> nodes.Template:
    _guard(source)
    env = _environment()
    try:
        return _expression_tree(source) if expression else env.parse(source)
    except TemplateSyntaxError as exc:
        raise _syntax(exc, source) from None
    except RecursionError:
        raise ExpressionError(f"nested too deeply (in {_short(source)})") from None


def _expression_tree(source: str) -> nodes.Template:
    env = _environment()
    parser = Parser(env, source, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError(f"unexpected {parser.stream.current.value!r} after the expression", 1)
    body: list[nodes.Node] = [nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)]
    tree = nodes.Template(body, lineno=1)
    tree.set_environment(env)
    return tree


@functools.lru_cache(maxsize=4096)
def expression(source: str) -> Compiled:
    """Compile a Jinja2 expression. Raises ``ExpressionError`` with the line if it does not parse."""
    return Compiled(source, _parse(source, True), True)


@functools.lru_cache(maxsize=4096)
def template(source: str) -> Compiled:
    """Compile a text template. Raises ``ExpressionError`` with the line if it does not parse."""
    return Compiled(source, _parse(source, False), False)


@functools.lru_cache(maxsize=4096)
def single(source: str) -> str | None:
    """The inner expression if ``source`` is exactly one ``{{ … }}``, else None."""
    text = source.strip()
    if not (text.startswith("{{") and text.endswith("}}")):
        return None
    inner = text[2:-2].strip("-+ \n\t")
    if "{{" in inner or "}}" in inner:
        return None
    return inner


def is_template(text: str) -> bool:
    """True if the text has anything for Jinja2 to do."""
    return "{" in text and ("{{" in text or "{%" in text or "{#" in text)


# Names, numbers and plain strings joined by operators: most of what people write, and surely well-formed.
_OPERAND = r"""(?:(?!(?:and|or|not|in|is|if|else)\b)[a-z_]\w*(?:\.[a-z_]\w*)*|(?:0|[1-9]\d*)(?:\.\d+)?|'[^'\\{}]*')"""
_SIMPLE = re.compile(rf"\s*{_OPERAND}(?:\s*(?:[-+*/<>]|==|!=|<=|>=)\s*{_OPERAND})*\s*", re.ASCII | re.IGNORECASE)


def _surely_fine(source: str, is_expression: bool) -> bool:
    """True for simple texts, decided without parsing: a flow of 5,000 nodes is checked on every save."""
    if is_expression:
        return _SIMPLE.fullmatch(source) is not None
    parts = source.split("{{")
    if "{%" in source or "{#" in source or "}}" in parts[0]:
        return False
    for part in parts[1:]:
        inner, end, rest = part.partition("}}")
        if not end or "}}" in rest or _SIMPLE.fullmatch(inner) is None:
            return False
    return True


@functools.lru_cache(maxsize=16_384)
def check(source: str, is_expression: bool) -> str:
    """The complaint about a text that does not parse, or "". Cheaper than compiling."""
    if _surely_fine(source, is_expression):
        return ""
    try:
        tree = _parse(source, is_expression)
        env = _environment()
        for used in tree.find_all(nodes.Filter):
            if used.name not in env.filters:
                return f"no filter named {used.name!r} (in {_short(source)})"
        for test in tree.find_all(nodes.Test):
            if test.name not in env.tests:
                return f"no test named {test.name!r} (in {_short(source)})"
    except ExpressionError as exc:
        return exc.message
    return ""


def plain(value: Any) -> Any:
    """A template's value as JSON-like data (moments become ISO 8601 text)."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.timedelta):
        return msgspec.to_builtins(value)
    return value
