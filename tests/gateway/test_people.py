"""Signing in, sessions, users and tokens; and what a browser's page of another site may not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.security.keys import init_keys
from appliance.security.owner import show_owner
from appliance.security.signed_request import sign_request
from appliance.security.wallet import address_of, new_private_key, sign_message
from tests.gateway.engine import API, Caller, Home
from tests.security.memory import Clock

HERE = {"Host": "localhost", "Origin": "http://localhost"}


def test_the_owner_signs_in_and_out(home: Home) -> None:
    owner = home.sign_in(show_owner(home.data).private_key)
    session = owner.get("/session")
    assert (session["signed_in"], session["kind"], session["roles"]) == (True, "user", {"*": "owner"})
    assert session["id"] == init_keys(home.data).owner_address
    assert "flows:write" in session["permissions"]["*"]
    assert session["engine"]["id"] == home.keys.engine.id
    assert owner.get("/flows")["items"] == []
    response = owner("DELETE", "/session")
    assert response.status_code == 204
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert owner("GET", "/flows").status_code == 401
    assert owner.get("/session")["signed_in"] is False


def test_the_cookie_is_for_the_panel_alone(home: Home) -> None:
    key = show_owner(home.data).private_key
    browser = Caller(home.client(), HERE)
    challenge = browser.get(f"/session/challenge?address={address_of(key)}")
    signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
    cookie = browser("POST", "/session", signed).headers["Set-Cookie"]
    assert cookie.startswith(f"flowork_{home.keys.engine.id}=")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    # A challenge counts once.
    again = browser("POST", "/session", signed)
    assert again.status_code == 401
    assert "used already" in again.get_json()["detail"]
    secure = home.app.test_client(use_cookies=False)
    challenge = secure.get(
        f"{API}/session/challenge?address={address_of(key)}", base_url="https://localhost"
    ).get_json()
    assert "https://localhost" in challenge["text"]
    signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
    response = secure.post(f"{API}/session", json=signed, base_url="https://localhost")
    assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.parametrize("change", ["text", "signature", "key", "host"])
def test_what_was_not_signed_right_signs_nobody_in(home: Home, change: str) -> None:
    key = show_owner(home.data).private_key
    browser = Caller(home.client(), HERE)
    challenge = browser.get(f"/session/challenge?address={address_of(key)}")
    text, signer = challenge["text"], key
    if change == "text":
        text = text.replace("sends nothing", "sends something")
    if change == "key":
        signer = new_private_key()
    signature = sign_message(signer, text)
    if change == "signature":
        signature = signature[:10] + ("0" if signature[10] != "0" else "1") + signature[11:]
    if change == "host":
        browser = Caller(home.client(), {"Host": "127.0.0.1", "Origin": "http://127.0.0.1"})
    response = browser("POST", "/session", {"text": text, "signature": signature})
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_a_stranger_s_key_does_not_sign_in(home: Home) -> None:
    key = new_private_key()
    browser = Caller(home.client(), HERE)
    challenge = browser.get(f"/session/challenge?address={address_of(key)}")
    response = browser(
        "POST", "/session", {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
    )
    assert response.status_code == 401
    assert "no access" in response.get_json()["detail"]


def test_a_foreign_name_for_this_box_gets_no_challenge(home: Home) -> None:
    """DNS rebinding: a name of somebody else's that points here."""
    path = f"/session/challenge?address=0x{'0' * 40}"
    for host in ("evil.example", "evil.example:5000", "localhost.evil.example", ""):
        assert Caller(home.client(), {"Host": host})("GET", path).status_code in {403, 400}, host
    for host in ("127.0.0.1:5000", "[::1]:5000", "flowork.local", "localhost:5000"):
        assert Caller(home.client(), {"Host": host})("GET", path).status_code == 200, host


def test_allowed_origins_are_names_of_this_box(make_home: Callable[..., Home]) -> None:
    home = make_home(environ={"FLOWORK_ALLOWED_ORIGINS": "https://panel.example.org/"})
    path = f"/session/challenge?address=0x{'0' * 40}"
    assert Caller(home.client(), {"Host": "panel.example.org"})("GET", path).status_code == 200


def test_another_site_s_page_cannot_use_the_session(home: Home) -> None:
    owner = home.sign_in(show_owner(home.data).private_key)
    cookie = {"Host": "localhost", "Cookie": owner.headers["Cookie"]}
    for headers, status in [
        ({**cookie, "Origin": "http://evil.example"}, 403),
        ({**cookie, "Origin": "null"}, 403),
        ({**cookie, "Sec-Fetch-Site": "cross-site"}, 403),
        (cookie, 403),
        ({**cookie, "Origin": "http://localhost"}, 200),
        ({**cookie, "X-Flowork": "1"}, 200),
        ({**cookie, "Sec-Fetch-Site": "same-origin"}, 200),
    ]:
        body = {"flow": {"name": "x", "nodes": []}}
        response = home.client().post(f"{API}/flows/validate", json=body, headers=headers)
        assert response.status_code == status, headers
    foreign = {**cookie, "Host": "evil.example", "Origin": "http://evil.example"}
    assert home.client().get(f"{API}/flows", headers=foreign).status_code == 403
    signed = {"text": "x", "signature": "0x"}
    from_elsewhere = home.client().post(
        f"{API}/session", json=signed, headers={**HERE, "Origin": "http://evil.example"}
    )
    assert from_elsewhere.status_code == 403


def test_pages_that_are_allowed_may_call_with_a_token(make_home: Callable[..., Home]) -> None:
    home = make_home(environ={"FLOWORK_ALLOWED_ORIGINS": "https://panel.example.org"})
    asked = {"Origin": "https://panel.example.org", "Access-Control-Request-Method": "PUT"}
    preflight = home.client().options(f"{API}/flows/x", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://panel.example.org"
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    answer = home.owner("GET", "/flows", headers={"Origin": "https://panel.example.org"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://panel.example.org"
    assert "Origin" in answer.headers["Vary"] and "ETag" in answer.headers["Access-Control-Expose-Headers"]
    refused = Caller(home.client(), {"Origin": "https://panel.example.org"})("GET", "/flows")
    assert refused.status_code == 401 and "Access-Control-Allow-Origin" in refused.headers
    for foreign in ("https://evil.example", "null"):
        preflight = home.client().options(f"{API}/flows", headers={**asked, "Origin": foreign})
        assert "Access-Control-Allow-Origin" not in preflight.headers
        assert "Access-Control-Allow-Origin" not in home.owner("GET", "/flows", headers={"Origin": foreign}).headers


def test_answers_carry_headers_that_protect(home: Home) -> None:
    for response in (home.owner("GET", "/flows"), home.anonymous("GET", "/flows")):
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "no-store" in response.headers["Cache-Control"]
    with home.anonymous("GET", "/") as page:  # the built panel, or the plain page
        assert page.headers["Referrer-Policy"] in {"no-referrer", "same-origin"}
        for answer in (response, page):
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_requests_signed_with_a_key(home: Home) -> None:
    _, key = home.person("runner")
    engine = home.keys.engine.id

    def signed(target: str, body: bytes = b"", method: str = "GET") -> dict[str, str]:
        return sign_request(key, method, target, body, engine=engine, now=home.gateway.now())

    target = f"{API}/flows?limit=10"
    headers = signed(target)
    assert home.client().get(target, headers=headers).status_code == 200
    assert home.client().get(target, headers=headers).status_code == 401  # a signature counts once
    assert home.client().get(f"{API}/flows?limit=11", headers=signed(target)).status_code == 401
    body = b'{"name": "signed"}'
    kind = {"Content-Type": "application/json"}
    sent = home.client().post(f"{API}/events", data=body, headers={**signed(f"{API}/events", body, "POST"), **kind})
    assert sent.status_code == 200
    changed = {**signed(f"{API}/events", body, "POST"), **kind}
    assert home.client().post(f"{API}/events", data=b'{"name": "forged"}', headers=changed).status_code == 401


def test_sessions_end(make_home: Callable[..., Home]) -> None:
    clock = Clock()
    home = make_home(environ={"FLOWORK_SESSION_HOURS": "2"}, now=clock)
    owner = home.sign_in(show_owner(home.data).private_key)
    for _ in range(3):  # each use moves the end
        clock.time += 3600
        assert owner("GET", "/flows").status_code == 200
    clock.time += 7201
    assert owner("GET", "/flows").status_code == 401
    assert owner.get("/session")["signed_in"] is False


def test_people_get_roles_and_lose_them(home: Home) -> None:
    key = new_private_key()
    who = address_of(key)
    made = home.owner.do("PUT", f"/users/{who}?workspace=club", {"role": "runner", "name": "Ada"})
    assert (made["address"], made["name"], made["roles"]) == (who, "Ada", {"club": "runner"})
    listed = home.owner.get("/users?workspace=club")["items"]
    assert listed[0]["roles"] == {"*": "owner"}
    assert who in [user["address"] for user in listed]
    assert who not in [user["address"] for user in home.owner.get("/users?workspace=pub")["items"]]
    ada = home.sign_in(key)
    token = home.gateway.tokens
    home.owner.do("PUT", f"/users/{who}?workspace=club", {"role": "admin"})
    made = ada.do("POST", "/tokens?workspace=club", {"name": "hers", "scopes": ["flows:read"]})
    hers = Caller(home.client(), {"Authorization": f"Bearer {made['token']}"})
    assert hers("GET", "/flows?workspace=club").status_code == 200
    assert home.owner.do("PUT", f"/users/{who}?workspace=club", {"role": None})["roles"] == {}
    assert home.owner("DELETE", f"/users/{who}").status_code == 204
    assert ada("GET", "/flows?workspace=club").status_code == 401
    assert hers("GET", "/flows?workspace=club").status_code == 401
    assert home.owner("DELETE", f"/users/{who}").status_code == 404
    assert token


def test_nobody_gives_more_than_they_have(home: Home) -> None:
    admin, _ = home.person("admin", "club2")
    who = address_of(new_private_key())
    assert admin("PUT", f"/users/{who}?workspace=club2", {"role": "owner"}).status_code == 403
    assert admin("PUT", f"/users/{who}?workspace=*", {"role": "reader"}).status_code == 403
    assert admin("PUT", f"/users/{who}?workspace=club2", {"role": "admin"}).status_code == 200
    assert admin("PUT", f"/users/{home.keys.owner_address}?workspace=club2", {"role": None}).status_code == 403
    assert admin("POST", "/tokens?workspace=club2", {"name": "x", "scopes": ["backups"]}).status_code == 403
    assert admin("POST", "/tokens?workspace=*", {"name": "x", "scopes": ["flows:read"]}).status_code == 403
    assert admin("PUT", "/users/0x12?workspace=club2", {"role": "reader"}).status_code == 422


def test_a_token_is_shown_once(home: Home) -> None:
    response = home.owner("POST", "/tokens", {"name": "shown", "scopes": ["runs:read"], "lifetime": 60})
    assert response.status_code == 201
    made = response.get_json()
    assert made["token"].startswith(f"flw_{made['id']}_")
    listed = home.owner("GET", "/tokens").get_data(as_text=True)
    assert made["id"] in listed and made["token"] not in listed
    assert made["token"] not in home.owner("GET", "/audit").get_data(as_text=True)
    refused = home.owner("POST", "/tokens", {"name": "x", "scopes": ["nothing"]})
    assert refused.status_code == 422


def test_the_same_request_makes_one_token(home: Home) -> None:
    key = {"Idempotency-Key": "token-1"}
    body: dict[str, Any] = {"name": "keyed", "scopes": ["runs:read"]}
    first = home.owner.do("POST", "/tokens", body, headers=key)
    assert home.owner.do("POST", "/tokens", body, headers=key) == first
    # Another caller's key is another key.
    other = home.caller(["admin", "runs:read"], "default")
    assert other.do("POST", "/tokens", body, headers=key)["id"] != first["id"]
    assert home.owner("POST", "/tokens", {**body, "name": "other"}, headers=key).status_code == 422
    # What failed may be tried again.
    wrong = {"Idempotency-Key": "token-2"}
    assert home.owner("POST", "/tokens", {**body, "scopes": ["x"]}, headers=wrong).status_code == 422
    assert home.owner("POST", "/tokens", {**body, "scopes": ["x"]}, headers=wrong).status_code == 422
    assert home.owner("POST", "/tokens", body, headers=wrong).status_code == 201
