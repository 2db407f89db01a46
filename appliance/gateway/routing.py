"""How an endpoint is declared: a function with a decorator, and nothing of it written twice.

    noun = Noun("variables", "Values that every flow of a workspace sees as ``vars.<name>``.")

    @noun.put("/variables/{name}", permission="variables:write", audit="variable.set")
    def save(call: Call[InWorkspace, NewValue], name: Name) -> VariableView: ...

The function's annotations are the declaration: ``Call[query, body]``, the path's parameters, and what it returns.
Its docstring is the endpoint's help. A parameter typed :class:`~appliance.store.records.Flow`,
:class:`~appliance.store.history.RunHead` or ``TokenRow`` is looked up before the function is called, and the
permission is asked for in the workspace that it belongs to.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct

from appliance.gateway.places import is_found
from appliance.security.roles import PERMISSIONS, Identity

if TYPE_CHECKING:
    from appliance.gateway.services import Gateway
    from appliance.gateway.told import Told

PREFIX = "/api/v1"
#: The audit action of an endpoint whose function has the entry written itself (by the flow book).
OWN = "own"
_PARAMETER = re.compile(r"\{(\w+)\}")

Q = TypeVar("Q")
B = TypeVar("B")
Handler = TypeVar("Handler", bound=Callable[..., Any])
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No query, or no body."""


class Raw(Struct, frozen=True):
    """An answer that is not JSON of a struct: bytes with their type, and headers of their own."""

    data: bytes
    type: str
    headers: Mapping[str, str] = {}


class Pieces(Struct, frozen=True):
    """An answer that is told while it is made. Its endpoint has neither ``once`` nor ``etag`` nor an audit entry."""

    told: Told
    type: str


class Call(Generic[Q, B]):
    """One request that was let in: who calls, in which workspace, with which query and body."""

    __slots__ = (
        "after", "body", "detail", "gateway", "headers", "identity", "key", "query", "request", "status", "target",
        "workspace",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, identity: Identity, workspace: str, query: Q, body: B) -> None:
        self.gateway = gateway
        self.identity = identity
        self.workspace = workspace
        self.query = query
        self.body = body
        #: The ``Idempotency-Key``, or nothing.
        self.key = ""
        #: Set to answer with another status than the declared one.
        self.status = 0
        self.headers: dict[str, str] = {}
        #: The request's headers with names in lower case.
        self.request: Mapping[str, str] = {}
        self.target = ""
        self.detail: dict[str, Any] = {}
        #: Called once the change and its audit entry are on disk.
        self.after: list[Callable[[], object]] = []

    def note(self, target: str, **detail: Any) -> None:
        """What the audit log is to say of this call."""
        self.target = target
        self.detail |= detail


class Endpoint(Struct, frozen=True, kw_only=True, dict=True):
    """One declared endpoint."""

    noun: str
    name: str
    method: Method
    path: str
    permission: str
    handler: Callable[..., Any]
    query: type
    body: type
    answer: Any
    parameters: Mapping[str, Any]
    status: int
    errors: tuple[int, ...]
    audit: str
    unaudited: str
    atomic: bool
    public: str
    anywhere: bool
    etag: bool
    once: bool
    own_key: bool
    media: str

    @property
    def help(self) -> str:
        """What the endpoint does."""
        return inspect.cleandoc(self.handler.__doc__ or "")

    @property
    def rule(self) -> str:
        """The path as Flask writes it."""
        return _PARAMETER.sub(r"<\1>", PREFIX + self.path)

    @functools.cached_property
    def found(self) -> str:
        """The parameter that is looked up first and says which workspace this is about, or nothing."""
        return next((name for name, kind in self.parameters.items() if is_found(kind)), "")

    @property
    def takes_body(self) -> bool:
        return self.body is not Nothing

    @property
    def engine_wide(self) -> bool:
        """It concerns the whole box rather than a workspace."""
        return bool(self.permission) and PERMISSIONS[self.permission].engine


class Noun:
    """The endpoints of one noun."""

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self.endpoints: list[Endpoint] = []

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a GET (HEAD comes with it); see :meth:`route`."""
        return self.route("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a POST; see :meth:`route`."""
        return self.route("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a PUT; see :meth:`route`."""
        return self.route("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a PATCH; see :meth:`route`."""
        return self.route("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare a DELETE; see :meth:`route`."""
        return self.route("DELETE", path, **options)

    def route(
        self,
        method: Method,
        path: str,
        *,
        permission: str = "",
        status: int = 200,
        errors: tuple[int, ...] = (),
        audit: str = "",
        unaudited: str = "",
        atomic: bool = False,
        public: str = "",
        anywhere: bool = False,
        etag: bool = False,
        once: bool = False,
        own_key: bool = False,
        media: str = "application/json",
    ) -> Callable[[Handler], Handler]:
        """Declare an endpoint.

        ``permission`` is one of ``roles.PERMISSIONS``, asked for in the workspace of the parameter that is looked
        up, else in ``query.workspace``; with ``anywhere`` in any workspace will do. ``public`` lets everybody in
        and says why. ``errors`` are statuses beside those that every endpoint may answer. Whatever changes
        something names its ``audit`` action, or says why it is ``unaudited``; ``atomic`` makes the function and its
        audit entry one transaction of the store. ``once`` honours an ``Idempotency-Key`` by remembering the answer;
        with ``own_key`` the function does so itself. ``etag`` tags the answer.
        """

        def declare(handler: Handler) -> Handler:
            hints = get_type_hints(handler, include_extras=True)
            query, body = _call_types(hints.pop("call"))
            answer = hints.pop("return")
            endpoint = Endpoint(
                noun=self.name,
                name=f"{self.name}_{handler.__name__}",
                method=method,
                path=path,
                permission=permission,
                handler=handler,
                query=query,
                body=body,
                answer=answer,
                parameters=hints,
                status=204 if answer is type(None) else status,
                errors=errors,
                audit=audit,
                unaudited=unaudited,
                atomic=atomic,
                public=public,
                anywhere=anywhere,
                etag=etag,
                once=once,
                own_key=own_key,
                media=media,
            )
            _check(endpoint)
            self.endpoints.append(endpoint)
            return handler

        return declare


def _call_types(hint: Any) -> tuple[type, type]:
    if get_origin(hint) is not Call:
        raise TypeError("the first parameter of an endpoint is `call: Call[query, body]`")
    query, body = get_args(hint)
    return query, body


def _check(endpoint: Endpoint) -> None:
    """A declaration that forgets something fails when the module is imported."""
    where = f"{endpoint.method} {endpoint.path}"
    if set(_PARAMETER.findall(endpoint.path)) != set(endpoint.parameters):
        raise TypeError(f"{where}: the path's parameters are not the function's")
    if bool(endpoint.permission) == bool(endpoint.public):
        raise TypeError(f"{where}: name a permission, or say why everybody may call it")
    placed = endpoint.engine_wide or endpoint.anywhere or endpoint.found or _names_workspace(endpoint.query)
    if endpoint.permission and not placed:
        raise TypeError(f"{where}: in which workspace is {endpoint.permission} needed?")
    if endpoint.method != "GET" and bool(endpoint.audit) == bool(endpoint.unaudited):
        raise TypeError(f"{where}: name the audit action, or say why there is none")
    if endpoint.answer is Pieces and (endpoint.once or endpoint.etag or endpoint.audit):
        raise TypeError(f"{where}: what is told in pieces is neither remembered nor tagged nor audited")
    if not endpoint.help:
        raise TypeError(f"{where}: has no docstring, which is its help")


def _names_workspace(query: type) -> bool:
    return "workspace" in getattr(query, "__struct_fields__", ())
