"""The panel's canvas in headless Chromium, without a GPU: frames while moving about, opening, laying out.

It needs the built panel (``web/dist``), Playwright and Debian's Chromium. Frames are those that the browser asks the
page for; one is dropped if the next comes more than one and a half frames of 60 Hz later.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from scripts.benchmarks.common import Engine, Row, engine, percentile

FRAME = 1000 / 60
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

#: The moment of a flow's first picture, in milliseconds since the page was asked for.
_DRAWN = """async () => {
  while (!performance.getEntriesByName('flow-drawn').length) await new Promise(requestAnimationFrame)
  return performance.getEntriesByName('flow-drawn')[0].startTime
}"""

#: Turns the wheel over the canvas, once a frame, and gives the milliseconds between frames.
_MOVE = """async ([how, turns]) => {
  const canvas = document.querySelector('[data-testid=canvas]')
  const box = canvas.getBoundingClientRect()
  const place = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 }
  const frames = []
  let last = await new Promise(requestAnimationFrame)
  for (let turn = 0; turn < turns; turn++) {
    const angle = (turn / turns) * 6 * Math.PI
    const wheel = how === 'pan'
      ? { deltaX: 40 * Math.cos(angle) + 0.5, deltaY: 25 * Math.sin(angle) + 0.5 }
      : { ctrlKey: true, deltaY: 4 * Math.cos(angle) + 0.1 }
    canvas.dispatchEvent(new WheelEvent('wheel', { ...place, ...wheel, bubbles: true, cancelable: true }))
    const now = await new Promise(requestAnimationFrame)
    frames.push(now - last)
    last = now
  }
  return frames
}"""

#: Presses the keys that lay out, and gives the milliseconds between frames until that is said to be done.
_LAYOUT = """async () => {
  const canvas = document.querySelector('[data-testid=canvas]')
  canvas.focus()
  const frames = []
  let last = await new Promise(requestAnimationFrame)
  const began = last
  const keys = { key: 'L', ctrlKey: true, shiftKey: true, bubbles: true, cancelable: true }
  canvas.dispatchEvent(new KeyboardEvent('keydown', keys))
  const said = () => [...document.querySelectorAll('[role=status]')].some((one) => one.textContent === 'Laid out')
  while (!said() && last - began < 20000) {
    const now = await new Promise(requestAnimationFrame)
    frames.push(now - last)
    last = now
  }
  return { frames, took: last - began }
}"""


def flow(nodes: int, edges: int, *, placed: bool) -> dict[str, Any]:
    """A wide graph without circles: a chain by rows, and edges that skip a row."""
    row = 60
    made = [
        {
            "id": f"n{number}",
            "type": "transform",
            "config": {"set": {"n": "{{ payload.n }}"}},
            **({"position": {"x": number % row * 300, "y": number // row * 130}} if placed else {}),
        }
        for number in range(nodes)
    ]
    chain = [{"from": f"n{number}", "to": f"n{number + 1}"} for number in range(nodes - 1)]
    skips = [{"from": f"n{number}", "to": f"n{number + row + 1}"} for number in range(nodes - row - 1)]
    return {"name": f"{nodes} nodes", "nodes": made, "edges": [*chain, *skips][:edges]}


def run(quick: bool) -> list[Row]:
    """Open the flows one after the other in one browser."""
    from playwright.sync_api import sync_playwright

    with engine() as ours, sync_playwright() as playwright:
        token = ours.flowork("token", "create", "bench", "--scope", "admin", "--json")
        secret = str(json.loads(token)["secret"])
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_ARGUMENTS)
        try:
            context = chromium.new_context(viewport={"width": 1360, "height": 850}, reduced_motion="reduce")
            context.set_extra_http_headers({"Authorization": f"Bearer {secret}"})
            page = context.new_page()

            def opened(body: dict[str, Any]) -> float:
                """Open the editor on a flow; milliseconds from asking for the page to its first picture."""
                page.goto(f"http://127.0.0.1:{ours.port}/flows/{save(ours, secret, body)}/edit")
                return float(page.evaluate(_DRAWN))

            opened(flow(10, 12, placed=True))  # what the browser keeps is there from now on
            small = flow(1000, 1500, placed=True)
            openings = [opened({**small, "name": f"opened {turn}"}) for turn in range(1 if quick else 3)]
            opened(flow(3000, 4500, placed=True))
            turns = 60 if quick else 300
            frames: dict[str, list[float]] = {}
            for how in ("pan", "zoom"):
                frames[f"whole, {how}"] = page.evaluate(_MOVE, [how, turns])
            page.get_by_test_id("canvas").press("0")
            for how in ("pan", "zoom"):
                frames[f"near, {how}"] = page.evaluate(_MOVE, [how, turns])
            opened(flow(5000, 7500, placed=True))
            page.wait_for_timeout(1000)
            laid = page.evaluate(_LAYOUT)
        finally:
            chromium.close()
    return [*_frame_rows(frames), *_other_rows(openings, laid)]


def _frame_rows(frames: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name, times in frames.items():
        median, late = percentile(times, 0.5), percentile(times, 0.95)
        rows.append(Row("canvas", f"3,000 nodes {name}: frame", median, "ms", "<= 16.7", median <= FRAME + 0.1))
        rows.append(Row("canvas", f"3,000 nodes {name}: frame p95", late, "ms", "<= 25", late <= 25))
    return rows


def _other_rows(openings: list[float], laid: dict[str, Any]) -> list[Row]:
    opening = percentile(openings, 0.5)
    dropped = sum(max(0, round(time / FRAME) - 1) for time in laid["frames"] if time > 1.5 * FRAME)
    return [
        Row("canvas", "1,000 nodes opened", opening / 1000, "s", "<= 1", opening <= 1000),
        Row("canvas", "5,000 nodes laid out", laid["took"] / 1000, "s"),
        Row("canvas", "5,000 nodes laid out: frames dropped", dropped, "", "0", dropped == 0),
    ]


def save(ours: Engine, token: str, body: dict[str, Any]) -> str:
    """Save a flow over the API; its id."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{ours.port}/api/v1/flows",
        json.dumps({"flow": body}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])
