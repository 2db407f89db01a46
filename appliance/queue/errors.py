"""What can go wrong with the queue, in words for people."""

from __future__ import annotations

import logging

from appliance.contracts import FlowError


class QueueError(FlowError):
    """The queue cannot be read or written just now; nothing of what was asked for has happened."""

    id = "queue-unavailable"


class Unserializable(FlowError):
    """A task's arguments or result hold a value that the queue cannot carry, or its bytes are not ours."""

    id = "queue-data"
    retryable = False


class Outage:
    """Says once that something does not work and once that it does again, however often it is tried.

    For one thread; ``what`` is a sentence such as "The queue cannot be read".
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._down = False

    def failed(self, exc: Exception) -> None:
        """It failed. An exception that is nobody's fault but ours is logged with its traceback."""
        if not self._down:
            self._down = True
            trace = None if isinstance(exc, FlowError) else exc
            self._logger.error("%s: %s. Trying again.", self._what, exc, exc_info=trace)

    def worked(self) -> None:
        """It worked."""
        if self._down:
            self._down = False
            self._logger.warning("This is over: %s.", self._what.lower())
