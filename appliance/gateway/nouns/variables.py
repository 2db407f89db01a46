"""Variables: JSON values that every flow of a workspace sees as ``vars.<name>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.gateway.common import Body, InWorkspace, Name, one_workspace
from appliance.gateway.mentions import mentions_for
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.errors import NotFound
from appliance.store.records import Page
from appliance.store.values import Variable

noun = Noun("variables", "Values that every flow of a workspace sees as `vars.<name>`.")


class ListVariables(InWorkspace, frozen=True):
    """Which of them, and with what."""

    uses: Annotated[bool, Meta(description="With the flows that mention each")] = False


class VariableView(Struct, frozen=True):
    """A variable; ``updated`` is when it was last set.

    ``used_by`` are the ids of the flows whose newest or live version mentions it, if that was asked for and the
    caller may see flows.
    """

    name: str
    value: Any
    updated: float
    used_by: list[str] | None = None


class NewValue(Body, frozen=True):
    """What to set it to."""

    value: Annotated[Any, Meta(description="Any JSON")]


@noun.get("/variables", permission="variables:read")
def list_variables(call: Call[ListVariables, Nothing]) -> Page[VariableView]:
    """The variables of a workspace by name."""
    workspace = one_workspace(call.workspace)
    uses = mentions_for(call, workspace, "vars") if call.query.uses else None
    found = call.gateway.store.values.variables(workspace)
    return Page([_view(variable, uses) for variable in found])


@noun.get("/variables/{name}", permission="variables:read", errors=(404,), etag=True)
def show(call: Call[InWorkspace, Nothing], name: Name) -> VariableView:
    """One variable."""
    return _find(call, name)


@noun.put("/variables/{name}", permission="variables:write", errors=(404,), audit="variable.set", atomic=True)
def save(call: Call[InWorkspace, NewValue], name: Name) -> VariableView:
    """Make or change a variable. Runs see it from their next step on."""
    call.note(name)
    call.gateway.store.values.set_variable(one_workspace(call.workspace), name, call.body.value)
    call.after.append(call.gateway.reload)
    return _find(call, name)


@noun.delete("/variables/{name}", permission="variables:write", errors=(404,), audit="variable.delete", atomic=True)
def delete(call: Call[InWorkspace, Nothing], name: Name) -> None:
    """Delete a variable."""
    call.note(name)
    call.gateway.store.values.delete_variable(one_workspace(call.workspace), name)
    call.after.append(call.gateway.reload)


def _find(call: Call[Any, Any], name: str) -> VariableView:
    for variable in call.gateway.store.values.variables(one_workspace(call.workspace)):
        if variable.name == name:
            return _view(variable)
    raise NotFound(f"there is no variable {name!r}")


def _view(variable: Variable, uses: Mapping[str, list[str]] | None = None) -> VariableView:
    used_by = None if uses is None else uses.get(variable.name, [])
    return VariableView(variable.name, variable.value, variable.updated, used_by)
