"""What a browser gets: the built panel, or a plain page that tells nothing of the engine's data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.gateway import panel
from appliance.gateway.problems import STATUSES
from tests.gateway.engine import Home
from tests.gateway.test_runs import named
from tests.support.flows import compute


@pytest.fixture(autouse=True, scope="module")
def none_built() -> Iterator[None]:
    """What was built in this checkout is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "PLACES", (Path("/nowhere"),))
        yield


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A panel as Vite builds one."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>panel</title>")
    (folder / "assets" / "index-B3xk9_aQ.js").write_text("export {}")
    (folder / "favicon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(panel, "PLACES", (tmp_path / "nowhere", folder))
    return folder


def test_a_built_panel_is_served(built: Path, make_home: Callable[..., Home]) -> None:
    home = make_home()
    for path in ("/", "/flows/abc", "/runs", "/deep/er/page"):
        response = home.client().get(path, buffered=True)
        assert (response.status_code, response.data) == (200, b"<!doctype html><title>panel</title>"), path
        assert response.headers["Cache-Control"] == "no-cache"
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    asset = home.client().get("/assets/index-B3xk9_aQ.js", buffered=True)
    assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "javascript" in asset.content_type
    again = home.client().get("/favicon.svg", buffered=True)
    assert again.headers["Cache-Control"] == "no-cache"
    kept = home.client().get("/favicon.svg", headers={"If-None-Match": again.headers["ETag"]}, buffered=True)
    assert kept.status_code == 304
    for path in ("/assets/index-00000000.js", "/nothing.png", "/../secret.txt", "/%2e%2e/secret.txt", "/a%00b",
                 "/api/v1/nothing", "/docs/nothing"):  # fmt: skip
        response = home.client().get(path, buffered=True)
        assert response.status_code == 404, path
        assert b"secret" not in response.data


def test_a_compressed_copy_goes_to_those_who_take_it(built: Path, make_home: Callable[..., Home]) -> None:
    script = built / "assets" / "index-B3xk9_aQ.js"
    (script.parent / f"{script.name}.gz").write_bytes(gzip.compress(b"export {}"))
    home = make_home()
    path = "/assets/index-B3xk9_aQ.js"
    small = home.client().get(path, headers={"Accept-Encoding": "gzip, br"}, buffered=True)
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == b"export {}"
    assert "javascript" in small.content_type and "immutable" in small.headers["Cache-Control"]
    whole = home.client().get(path, headers={"Accept-Encoding": "identity"}, buffered=True)
    assert "Content-Encoding" not in whole.headers and whole.data == b"export {}"
    assert whole.headers["ETag"] != small.headers["ETag"]
    assert "Accept-Encoding" in small.headers["Vary"] and "Accept-Encoding" in whole.headers["Vary"]
    asked = {"Accept-Encoding": "gzip", "If-None-Match": small.headers["ETag"]}
    kept = home.client().get(path, headers=asked, buffered=True)
    assert kept.status_code == 304


def test_without_a_panel_a_plain_page_tells_what_this_is(home: Home) -> None:
    response = home.anonymous("GET", "/")
    assert response.status_code == 200
    html = response.get_data(as_text=True)
    assert "Flowork" in html and "The engine is running." in html
    assert "flowork runs" in html and "/api/v1/runs" in html and "/docs/errors" in html
    assert "<script" not in html
    assert "prefers-color-scheme: dark" in html and "viewport" in html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"(?:src|href)=\"(?!/)", html)  # nothing leaves the box


def test_the_page_tells_nothing_of_the_engine_s_data(home: Home) -> None:
    home.run(home.save(named("A private flow", compute("a", "1"))))
    html = home.anonymous("GET", "/").get_data(as_text=True)
    for private in ("private", home.keys.engine.id, str(home.keys.owner_address), str(home.data)):
        assert private not in html
    marked = home.anonymous("GET", "/", headers={"Host": "<script>alert(1)</script>"})
    assert b"<script" not in marked.data


def test_the_page_says_when_the_kernel_is_away(make_home: Callable[..., Home]) -> None:
    home = make_home()
    assert "not there (yet)" in home.anonymous("GET", "/").get_data(as_text=True)


def test_every_error_that_is_answered_is_explained(home: Home) -> None:
    html = home.anonymous("GET", "/docs/errors").get_data(as_text=True)
    explained = dict(re.findall(r'<dt id="([^"]+)">.*?</dt><dd>(.*?)</dd>', html))
    assert STATUSES.keys() <= explained.keys()
    assert all(explained.values()), [name for name, text in explained.items() if not text]
    problem = json.loads(home.anonymous("GET", "/flows").data)
    assert problem["type"].partition("#")[2] in explained
