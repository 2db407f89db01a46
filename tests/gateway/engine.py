"""A whole engine for the gateway's tests: the real store, the real kernel in this process, and callers with roles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from appliance.gateway.app import create_app, gateway_of
from appliance.kernel.kernel import Kernel
from appliance.security.keys import init_keys
from appliance.security.roles import SCOPES, local_identity
from appliance.security.secret import Secret
from appliance.security.wallet import address_of, new_private_key, sign_message

API = "/api/v1"
ME = local_identity("tester")
PATIENCE = 15.0


def wait_for(condition: Callable[[], Any], what: str = "it") -> Any:
    """The first true value of a condition. Fails after some seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.005)
    return found


class Caller:
    """Somebody who calls the API, with their credentials."""

    def __init__(self, client: FlaskClient, headers: Mapping[str, str] | None = None) -> None:
        self.client = client
        self.headers = dict(headers or {})

    def __call__(self, method: str, path: str, json: Any = None, **options: Any) -> TestResponse:
        """One request; ``json`` is its body."""
        headers = {**self.headers, **options.pop("headers", {})}
        if json is not None:
            options["json"] = json
        full = path if path.startswith(("/hooks", "/docs", "/assets")) or path == "/" else API + path
        return self.client.open(full, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        """The JSON of a GET that must succeed."""
        response = self("GET", path, **options)
        assert response.status_code == 200, response.get_data(as_text=True)
        return response.get_json()

    def do(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        """The JSON (or None) of a change that must succeed."""
        response = self(method, path, json, **options)
        assert response.status_code < 300, response.get_data(as_text=True)
        return response.get_json() if response.data else None


class Home:
    """An engine's data folder with a gateway on it, and a kernel if one was started."""

    def __init__(
        self, data: Path, environ: Mapping[str, str] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.data = data
        self.keys = init_keys(data)
        # Tests sign in more often than people do.
        self.app = create_app(data, environ={"FLOWORK_SIGN_INS_PER_MINUTE": "1000", **(environ or {})}, now=now)
        self.gateway = gateway_of(self.app)
        self.store = self.gateway.store
        self.kernel: Kernel | None = None
        self.owner = self.caller(SCOPES)
        self.anonymous = Caller(self.client())

    def client(self) -> FlaskClient:
        """A browser without cookies of its own."""
        return self.app.test_client(use_cookies=False)

    def start_kernel(self) -> None:
        """Have a kernel; a second call starts a new one."""
        self.stop_kernel()
        self.kernel = Kernel(self.data)
        self.kernel.start()

    def stop_kernel(self) -> None:
        """Have none."""
        kernel, self.kernel = self.kernel, None
        if kernel is not None:
            kernel.stop()

    def close(self) -> None:
        """Let go of everything."""
        self.stop_kernel()
        self.gateway.close()

    def caller(self, scopes: Any, workspace: str = "*", lifetime: float | None = None) -> Caller:
        """A machine with a token."""
        secret, _ = self.gateway.tokens.create(ME, "test", scopes, workspace=workspace, lifetime=lifetime)
        return Caller(self.client(), {"Authorization": f"Bearer {secret.reveal()}"})

    def person(self, role: str, workspace: str = "default") -> tuple[Caller, Secret]:
        """A signed-in person with a role, and their private key."""
        key = new_private_key()
        from appliance.security.roles import Role

        self.gateway.users.set_role(ME, address_of(key), workspace, Role(role), role)
        return self.sign_in(key), key

    def sign_in(self, key: Secret, host: str = "localhost") -> Caller:
        """A browser that has signed in with a key."""
        client = self.app.test_client(use_cookies=False)
        headers = {"Host": host, "Origin": f"http://{host}"}
        caller = Caller(client, headers)
        challenge = caller.get(f"/session/challenge?address={address_of(key)}")
        signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
        response = caller("POST", "/session", signed)
        assert response.status_code == 200, response.get_data(as_text=True)
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        return Caller(client, {**headers, "Cookie": cookie})

    def save(self, body: Mapping[str, Any], *, deploy: bool = True, workspace: str = "default") -> str:
        """Save a flow through the API; its id."""
        made = self.owner.do("POST", f"/flows?workspace={workspace}", {"flow": body, "deploy": deploy})
        return str(made["id"])

    def run(self, flow: str, payload: Any = None, wait: float = 10.0) -> dict[str, Any]:
        """Start a run and wait for its end."""
        result: dict[str, Any] = self.owner.do("POST", f"/flows/{flow}/runs", {"input": payload, "wait": wait})
        return result
