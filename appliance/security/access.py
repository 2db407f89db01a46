"""Who is calling? The one place where a request's credentials become an :class:`Identity`.

In this order: an ``Authorization`` header (engine token or signature; a browser sends none by itself), then the
session cookie, which counts only for a request that our own page can have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from appliance.security.origins import origin_allowed
from appliance.security.roles import ANONYMOUS, Forbidden, Identity, Unauthorized
from appliance.security.sessions import Sessions
from appliance.security.signed_request import SCHEME, RequestVerifier
from appliance.security.tokens import Tokens
from appliance.security.users import Users


class Call(Struct, frozen=True, kw_only=True):
    """What a request shows of its caller.

    ``target``: path and query as they came over the wire; ``headers``: names in lower case; ``cookie``: the
    value of the session cookie; ``body`` is asked for only when a signature must be checked.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    cookie: str = ""
    body: Callable[[], bytes] = bytes
    websocket: bool = False


class Access:
    """Tells who a call comes from."""

    def __init__(self, users: Users, sessions: Sessions, tokens: Tokens, requests: RequestVerifier) -> None:
        self._users = users
        self._sessions = sessions
        self._tokens = tokens
        self._requests = requests

    def identify(self, call: Call) -> Identity:
        """Who is calling; ``ANONYMOUS`` if nothing is shown at all.

        What is shown must hold: a wrong token is ``Unauthorized`` even where a cookie would do. Raises
        ``Forbidden`` for a cookie that another site's page made the browser send, and ``Busy``.
        """
        if header := call.headers.get("authorization", ""):
            return self._by_header(header, call)
        if call.cookie:
            return self._by_cookie(call)
        return ANONYMOUS

    def _by_header(self, header: str, call: Call) -> Identity:
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.check(rest.strip())
        if scheme == SCHEME:
            address = self._requests.verify(header, call.method, call.target, call.body(), known=self._users.known)
            return self._person(address)
        raise Unauthorized(f"write: Authorization: Bearer flw_… (an engine token), or: {SCHEME} … (a signature)")

    def _by_cookie(self, call: Call) -> Identity:
        if not origin_allowed(call.method, call.headers, websocket=call.websocket):
            raise Forbidden("this request came from a page of another site; open Flowork itself and try again")
        address = self._sessions.check(call.cookie)
        try:
            return self._person(address)
        except Unauthorized:
            self._sessions.end_all(address)
            raise

    def _person(self, address: str) -> Identity:
        if (identity := self._users.identity(address)) is None:
            raise Unauthorized("this key has no access to this box any more; ask its owner")
        return identity
