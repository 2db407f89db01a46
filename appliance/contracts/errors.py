"""The errors that a person may see; docs/errors.md explains each by its id."""

from __future__ import annotations

from typing import Any, ClassVar


class FlowError(Exception):
    """Base of every error a person may see. ``id`` is explained in docs/errors.md.

    ``retryable`` says whether the same step may succeed if it is simply tried again later.
    """

    id: ClassVar[str] = "error"
    retryable: bool = True

    def __init__(self, message: str, *, retryable: bool | None = None, detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        if retryable is not None:
            self.retryable = retryable


class ConfigError(FlowError):
    """The config (after its templates were rendered) is wrong; trying again does not help."""

    id = "bad-config"
    retryable = False


class NodeError(FlowError):
    """A node could not do its work."""

    id = "node-failed"


class ExpressionError(FlowError):
    """A template or an expression failed or used up its budget."""

    id = "bad-expression"
    retryable = False


class TimedOut(FlowError):
    """A step passed its timeout and its work was ended."""

    id = "timed-out"


class Busy(FlowError):
    """The queue's bound is reached; ``retry_after`` seconds are a good moment to come back."""

    id = "busy"

    def __init__(self, message: str = "the queue is full", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
