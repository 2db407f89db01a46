"""The panel in headless Chromium: how soon Home can be used, how soon a run's end is on the screen, what panels cost.

It needs the built panel (``web/dist``), Playwright and Debian's Chromium. The browser is on the same machine, so
there is no network in between, and it takes its part of the processor.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import simple_websocket

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, sign_message
from scripts.benchmarks.common import Engine, Row, Usage, engine, percentile

PANELS = 20
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_WELCOMED = "localStorage.setItem('flowork.welcomed', 'true')"

#: Milliseconds since the page was asked for, once Home shows the engine's health and the newest runs.
_SHOWN = """async () => {
  while (!document.querySelector('[data-test=health]') || !document.querySelector('.runs a'))
    await new Promise(requestAnimationFrame)
  return await new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))
}"""

#: Notes when each run is first drawn as ended (Unix seconds).
_WATCH = """() => {
  window.seen = {}
  new MutationObserver(() => {
    for (const link of document.querySelectorAll('.runs a')) {
      const run = link.getAttribute('href').split('/').pop()
      if (run in window.seen || !link.textContent.includes('succeeded')) continue
      window.seen[run] = null
      requestAnimationFrame(() => setTimeout(() => { window.seen[run] = Date.now() / 1000 }))
    }
  }).observe(document.body, { subtree: true, childList: true, characterData: true })
}"""


def run(quick: bool) -> list[Row]:
    """Home, then runs one after the other, then many watching."""
    from playwright.sync_api import sync_playwright

    with engine() as ours, sync_playwright() as playwright:
        origin = f"http://127.0.0.1:{ours.port}"
        cookie = sign_in(ours, origin)
        name, _, value = cookie.partition("=")
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_ARGUMENTS)
        try:
            times = []
            for _ in range(3 if quick else 7):  # each with nothing kept, as on the first visit
                context = chromium.new_context(viewport={"width": 1360, "height": 850})
                context.add_cookies([{"name": name, "value": value, "url": origin}])
                context.add_init_script(_WELCOMED)
                page = context.new_page()
                page.goto(f"{origin}/")
                times.append(float(page.evaluate(_SHOWN)))
                context.close()
            context = chromium.new_context()
            context.add_cookies([{"name": name, "value": value, "url": origin}])
            context.add_init_script(_WELCOMED)
            page = context.new_page()
            page.goto(f"{origin}/")
            page.evaluate(_SHOWN)
            page.evaluate(_WATCH)
            late = [_until_seen(ours, page, cookie, origin) for _ in range(10 if quick else 50)]
        finally:
            chromium.close()
        used = _cost_of_watching(ours, cookie)
    shown, middle, worst = percentile(times, 0.5), percentile(late, 0.5), percentile(late, 0.95)
    return [
        Row("panel", "Home can be used", shown / 1000, "s", "<= 1", shown <= 1000),
        Row("panel", "a run's end on the screen", middle, "ms", "<= 100", middle <= 100),
        Row("panel", "a run's end on the screen, p95", worst, "ms"),
        Row("panel", f"{PANELS} panels: memory (PSS) of the gateway", used, "MB more", "<= 40", used <= 40),
    ]


def sign_in(ours: Engine, origin: str) -> str:
    """The cookie of a session of the owner."""
    key = Secret(json.loads(ours.flowork("key", "show", "--json"))["private_key"])
    challenge, _ = call(ours, "GET", f"/session/challenge?address={address_of(key)}", {})
    signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
    _, answer = call(ours, "POST", "/session", {"Origin": origin}, signed)
    return str(answer["set-cookie"]).partition(";")[0]


def _until_seen(ours: Engine, page: Any, cookie: str, origin: str) -> float:
    """Milliseconds from the end of a run until it is drawn."""
    headers = {"Cookie": cookie, "Origin": origin}
    started, _ = call(ours, "POST", "/flows/first-steps/runs", headers, {"wait": 10})
    story, _ = call(ours, "GET", f"/runs/{started['run']}?values=none", headers)
    page.wait_for_function("run => window.seen[run]", arg=started["run"])
    drawn = float(page.evaluate("run => window.seen[run]", started["run"]))
    return (drawn - float(story["finished"])) * 1000


def _cost_of_watching(ours: Engine, cookie: str) -> float:
    """Megabytes that the gateway takes more while many panels watch."""
    before = _gateway(ours)
    with contextlib.ExitStack() as held:
        for _ in range(PANELS):
            held.enter_context(_watching(ours, cookie))
        return (_gateway(ours) - before) / 1e6


@contextlib.contextmanager
def _watching(ours: Engine, cookie: str) -> Iterator[None]:
    # This client's Host header leaves the port out, and the origin must match it.
    headers = {"Cookie": cookie, "Origin": "http://127.0.0.1"}
    socket = simple_websocket.Client(f"ws://127.0.0.1:{ours.port}/api/v1/live", ["flowork"], headers=headers)
    try:
        socket.receive(5)
        yield
    finally:
        socket.close()


def _gateway(ours: Engine) -> int:
    gateway = ours.child("gateway")
    return Usage.of([gateway, *gateway.children(recursive=True)]).pss


def call(ours: Engine, method: str, path: str, headers: dict[str, str], body: Any = None) -> tuple[Any, dict[str, str]]:
    link = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=30)
    try:
        data = None if body is None else json.dumps(body).encode()
        link.request(
            method, f"/api/v1{path}", data, {**headers, **({"Content-Type": "application/json"} if data else {})}
        )
        answer = link.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        link.close()
