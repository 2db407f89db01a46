"""Templates and expressions, compiled from Jinja2.

Text in a config is a template; text that is exactly one ``{{ … }}`` yields the native value. Everything
is compiled once and cached by its source, and runs in the sandbox of :mod:`appliance.engine.sandbox`.
Names that a template reads are known after compiling, so that a step only prepares what is used.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from jinja2 import Template, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context as JinjaContext

from appliance.contracts import ExpressionError
from appliance.engine.sandbox import MAX_VALUE, budget, environment

MAX_SOURCE = 200_000


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
    return EvalContext(environment(), None)


@functools.cache
def _global_names() -> set[str]:
    return set(environment().globals)


class Compiled:
    """A compiled template or expression: call it with the names it may read."""

    __slots__ = ("_expression", "_heavy", "_root", "_template", "names", "source")

    def __init__(self, source: str, tree: nodes.Template, expression: bool) -> None:
        env = environment()
        self.source = source
        self.names = _names(tree)
        self._heavy = _instrument(tree)
        self._expression = expression
        try:
            self._template = env.from_string(tree)
        except TemplateSyntaxError as exc:  # a test or filter that there is not
            raise _syntax(exc, source) from None
        except RecursionError:
            raise ExpressionError(f"nested too deeply (in {_short(source)})") from None
        self._root = self._template.root_render_func

    def __call__(self, names: Mapping[str, Any]) -> Any:
        """The value. Raises ``ExpressionError`` saying what failed in which text."""
        if self._heavy:
            budget.reset(len(self.source))
        else:
            budget.size = MAX_VALUE
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
    env = environment()
    try:
        return _expression_tree(source) if expression else env.parse(source)
    except TemplateSyntaxError as exc:
        raise _syntax(exc, source) from None
    except RecursionError:
        raise ExpressionError(f"nested too deeply (in {_short(source)})") from None


def _expression_tree(source: str) -> nodes.Template:
    env = environment()
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
        env = environment()
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
