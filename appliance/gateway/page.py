"""The plain pages that need no panel: what this is, and what the errors mean. No script, no data of the engine."""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from html import escape

from appliance.contracts import FlowError
from appliance.gateway.problems import STATUSES
from appliance.gateway.version import VERSION

STYLE = """
:root { color-scheme: light dark; --ink: #1c2420; --soft: #5c6a63; --paper: #f6f4ee; --card: #fffefa;
  --line: #dcd8cb; --leaf: #24734a; --warn: #a8560b; --code: #eeeadd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ece6; --soft: #9aa79f; --paper: #141916;
  --card: #1b221e; --line: #2e3832; --leaf: #6cc896; --warn: #e8a455; --code: #232c27; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: clamp(1.5rem, 6vw, 5rem) 1.25rem 4rem; }
header { display: flex; align-items: center; gap: 1rem; margin-bottom: 1.75rem; }
svg { width: 3.25rem; height: 3.25rem; flex: none; color: var(--leaf); }
h1 { font-size: 1.9rem; letter-spacing: -0.02em; line-height: 1.15; margin: 0; }
h2 { font-size: 1.05rem; margin: 0 0 0.4rem; }
p { margin: 0 0 0.8rem; }
.lead { font-size: 1.15rem; color: var(--soft); margin: 0.2rem 0 0; }
.state { display: inline-flex; align-items: center; gap: 0.6rem; padding: 0.35rem 0.9rem; border: 1px solid var(--line);
  border-radius: 99px; background: var(--card); margin-bottom: 2rem; }
.state::before { content: ""; width: 0.65rem; height: 0.65rem; border-radius: 50%; background: var(--leaf); }
.state.away::before { background: var(--warn); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 0.8rem; padding: 1.1rem 1.25rem;
  margin-bottom: 1rem; }
section > :last-child { margin-bottom: 0; }
pre { background: var(--code); border-radius: 0.5rem; padding: 0.7rem 0.9rem; margin: 0 0 0.8rem; overflow-x: auto; }
pre.whole { white-space: pre-wrap; overflow-wrap: anywhere; }
.lead + section { margin-top: 1.5rem; }
code { font: 0.9em/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
dt { font-weight: 600; margin-top: 0.9rem; scroll-margin-top: 1rem; }
dt:target code { background: var(--leaf); color: var(--paper); padding: 0.1rem 0.4rem; border-radius: 0.3rem; }
dd { margin: 0; color: var(--soft); }
a { color: var(--leaf); }
.button { display: inline-block; background: var(--leaf); color: var(--paper); padding: 0.6rem 1.1rem;
  border-radius: 0.5rem; text-decoration: none; font-weight: 600; }
footer { color: var(--soft); font-size: 0.9rem; margin-top: 2rem; }
"""
#: What the content security policy allows, and nothing else.
STYLE_HASH = f"sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}"
_LOGO = (
    '<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" '
    'aria-hidden="true"><path d="M14 12h8c8 0 4 24 12 24h2M14 12c8 0 4 24 0 24"/><circle cx="9" cy="12" r="5"/>'
    '<circle cx="9" cy="36" r="5"/><circle cx="40" cy="36" r="5" fill="currentColor"/></svg>'
)


def home(*, running: bool, host: str) -> str:
    """The page at ``/`` as long as there is no panel."""
    state = "The engine is running." if running else "The gateway answers; the kernel is not there (yet)."
    base = escape(f"http://{host}")
    return _page(
        "Flowork",
        f"""<header>{_LOGO}<div><h1>Flowork</h1><p class="lead">An automation box that never forgets a run.</p></div>
</header>
<p class="state{"" if running else " away"}" role="status">{state}</p>
<section><h2>Look at it from this machine</h2>
<p>The command line works on the data folder itself, so it needs no sign-in.</p>
<pre><code>flowork flow list          # what is deployed
flowork runs               # the newest runs
flowork show RUN           # one run, step by step
flowork run FLOW --follow  # start one and watch
flowork doctor             # is everything well?</code></pre></section>
<section><h2>Use it from a program</h2>
<p>Everything is in the API. Make an engine token with <code>flowork token create</code>, then:</p>
<pre><code>curl -H "Authorization: Bearer flw_…" {base}/api/v1/runs
curl -H "Authorization: Bearer flw_…" {base}/api/v1/openapi.json</code></pre></section>
<section><h2>Read on</h2>
<p>The <code>docs/</code> folder tells of flows, nodes and triggers, the API, durability and security;
<code>examples/</code> has flows to begin with. <a href="/docs/errors">What the errors mean</a> is also here.</p>
</section>
<footer>Flowork {escape(VERSION)}. Nothing leaves this box unless a flow sends it. The panel is not part of this
installation yet.</footer>""",
    )


def framed(title: str, body: str) -> str:
    """A page of our own with a heading; ``body`` is HTML."""
    return _page(title, f"<header>{_LOGO}<div><h1>{escape(title)}</h1></div></header>{body}")


@cache
def errors() -> str:
    """The page at ``/docs/errors``: every error's id with what it means."""
    known = "".join(
        f'<dt id="{escape(error_id)}"><code>{escape(error_id)}</code></dt><dd>{escape(text)}</dd>'
        for error_id, text in sorted(_explained().items())
    )
    return _page(
        "Errors",
        f"""<header>{_LOGO}<div><h1>Errors</h1><p class="lead">Every error has an id; this is what they mean.</p></div>
</header><section><dl>{known}</dl></section><footer><a href="/">Flowork {escape(VERSION)}</a></footer>""",
    )


def _explained() -> dict[str, str]:
    import appliance

    for module in pkgutil.walk_packages(appliance.__path__, "appliance."):
        if module.name.startswith(("appliance.store", "appliance.security", "appliance.kernel", "appliance.gateway")):
            importlib.import_module(module.name)
    found = {
        "internal": "Something broke that should not. The log has more, under the incident's number.",
        "method-not-allowed": "The address is there, but does not take that method.",
    }
    for kind in _kinds(FlowError):
        text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
        found.setdefault(kind.id, " ".join(text.replace("``", "").split()))
    return found | {name: found.get(name, "") for name in STATUSES}


def _kinds(kind: type[FlowError]) -> Iterator[type[FlowError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )
