"""What can go wrong with model files."""

from __future__ import annotations

from appliance.contracts import FlowError


class NoSuchModel(FlowError):
    """There is no model of that name, here or in the catalogue."""

    id = "not-found"
    retryable = False


class BadModel(FlowError):
    """What was fetched or given is not the model that it should be."""

    id = "bad-model"
    retryable = False


class NoRoom(FlowError):
    """The disk has no room for a model."""

    id = "no-room"


class CannotFetch(FlowError):
    """The source of a model does not answer, or not with the model."""

    id = "cannot-fetch"


class ModelIsThere(FlowError):
    """A model of that name is there already, or is being fetched."""

    id = "conflict"
    retryable = False


class HostAway(FlowError):
    """The model host does not answer."""

    id = "model-host-away"
