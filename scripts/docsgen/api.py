"""The page of the API: how to talk to it, and every endpoint with what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.gateway.app import all_nouns
from appliance.gateway.hub import KEPT, MAX_WAITING
from appliance.gateway.live import GATHER, PING, SPARE
from appliance.gateway.process import THREADS
from appliance.gateway.routing import PREFIX, Endpoint, Noun
from appliance.security.roles import PERMISSIONS
from scripts.docsgen.tables import markdown

_MADE = "<!-- Made by scripts/make-docs from the code: change the code and run it again. -->"
_ABOUT = """\
Everything that the panel does goes through this API, and nothing else does: what a person can do there, a program can
do too. It lies under `/api/v1`. Its OpenAPI 3.1 document, with every field of every request and answer, is at
`/api/v1/openapi.json`; it is made from the same declarations that the engine checks requests with.

```sh
flowork token create dashboard --scope runs:read --scope flows:read
curl -H "Authorization: Bearer flw_…" http://localhost:5000/api/v1/runs?state=failed
```

## Who is calling

- **A program** sends an engine token: `Authorization: Bearer flw_…`. A token has scopes, a workspace (`*`: all) and
  perhaps an end; it is shown once, when it is made.
- **A person** signs in. `GET /session/challenge?address=0x…` gives a text; it is signed as wallets do
  (`personal_sign`, EIP-191) and sent to `POST /session` with the signature, and the answer sets a cookie. A challenge
  counts once and for five minutes. Requests that change something must come from the box's own page: the browser's
  `Origin` (or `Sec-Fetch-Site`) is compared with the host, and where it sends neither, the header `X-Flowork: 1`
  must be there.
- **A program without a shared secret** signs each request with its key; see [security](security.md).

Without any of these only the sign-in, one word of health and webhooks answer. What somebody may not see is not there
(404); what they may see and not do is refused (403).

A **workspace** holds flows, variables, secrets and the roles of people. Lists and what is new take `?workspace=`, which
is `default` if left out and `*` for all; whatever belongs to a flow or run is found in its own.

## Requests and answers

- Bodies are JSON (`Content-Type: application/json`). A field or parameter that is not known is refused rather than
  passed over. Times are Unix seconds, durations seconds, run ids 13 characters that sort by time.
- Lists come in pages: `{"items": […], "next": "…"}`. `?limit=` is up to 500, `?cursor=` is `next` of the page before;
  at the end `next` is empty. What comes in meanwhile neither repeats nor hides anything.
- Bytes in a value are `{"$base64": "…"}`. A value that is too large to be kept with its step is `{"$blob": …}` and
  to be had from `GET /runs/{run}/blobs/{digest}`.
- `GET`s of one thing carry an `ETag`; asked again with `If-None-Match` they answer 304. Nothing else may be kept.
- `Idempotency-Key` makes a repeated `POST` harmless. What starts a run keeps the key on disk with the run; others
  remember the answer for a day, in memory: a restart forgets it.

**Errors** are problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), whatever went wrong:

```json
{"type": "/docs/errors#invalid-flow", "title": "Unprocessable Entity", "status": 422,
 "detail": "the flow is not valid: nodes[3].config.url: must be an http(s) URL",
 "problems": [{"path": "nodes[3].config.url", "message": "must be an http(s) URL"}]}
```

`type` ends in the error's [id](errors.md). 422 lists every fault with its place. 409 has in `extra` what collided. 429
and 503 say in `Retry-After` when to come back. A 500 names an incident that the log tells more of.

**Bounds:** a request may have `max_request_bytes`, JSON may be nested 100 deep, each caller has a
[rate](settings.md) of its own (`rate_limit`, `rate_burst`, `sign_ins_per_minute`).

## Saving a flow without losing anybody's edit

`PUT /flows/{flow}` takes the flow, a message, and `base`: the number of the version that was edited. If another version
was saved in between, nothing is saved, and the 409 names both (`extra.yours`, `extra.newest`) with author and time.
`If-Match` with the flow's `ETag` says the same in HTTP's words (412). A flow with faults is refused, unless it is a
`?draft=true`, which cannot be deployed. Saving changes nothing that runs: `POST /flows/{flow}/deploy` does, or
`"deploy": true`.

## Runs

`POST /flows/{flow}/runs` is answered with 202 once the run is on disk; with `"wait": 10` it waits for the end (200 with
the output). If no kernel runs, the run is kept and begins when there is one (`"kernel": false`).

`GET /runs/{run}` tells all of it: `event` and `payload` that started it; `steps`, one for each node, with input,
output, error, attempts, times, rendered config and what its templates looked up; and `records`, everything in the
order in which it happened, which is what the panel's time travel walks along. `?values=none` leaves the values out.

`POST /runs/{run}/replay` begins again at any step (`from`), with the payload edited if one is given, on the same
version or on the `live` one. `GET /runs/{run}/compare/{other}` says where two runs differ, step by step.

## Webhooks

A flow with a [webhook](triggers/webhook.md) is called at `/hooks/<path>`, outside of `/api/v1` and without an
identity: the path is the secret. The answer is 202 with the run's id once the run is on disk, or with `reply: result`
200 with the run's output (and its id in `X-Flowork-Run`); 202 again if that takes too long, and 502 if the run did not
succeed, without saying why: the run tells those who may read it. Past the queue's bound it is 429 with `Retry-After`.

## Live

`/api/v1/live` is a WebSocket, one a page: everything comes over it. Each message is a JSON list of events: what
comes within %(gather)d ms of the message before is gathered. There is nothing to send.

| event | it means |
|---|---|
| `{"type": "hello", "id"}` | the beginning; `id` is where the stream is |
| `{"type": "run", "id", "run", "flow", "version", "state", "steps", …}` | a run has moved; `steps` is what is new |
| `{"type": "models", "setup"}`, `{"type": "models", "pull"}` | how making the model engine, or fetching a model, goes |
| `{"type": "kernel", "up"}` | whether there is a kernel; told at the beginning and when it changes |
| `{"type": "reset", "id"}` | something was missed: load anew what is shown |

After a cut, connect with `?after=<id of the last event>`: what came meanwhile follows, none of it missing or twice,
also at another gateway of the same cluster, or a `reset` if that is not possible (a new kernel, more than %(kept)d
events). An id is text to give back: it says how far each kernel was heard. `?flow=a&flow=b` watches these alone.
A browser, which can set no header here, sends a token as a subprotocol: `["flowork", "flowork.bearer.flw_…"]`. The
server pings every %(ping)d s. At most %(sockets)d panels watch at once (503 beyond); one that lets %(waiting)d events
pile up is dropped with the code 1013 and may connect again.

## Pages of other origins

A panel that is hosted elsewhere may steer this engine if its origin is in the setting `allowed_origins`. It uses a
token; the session's cookie is never sent across origins. A name that the box has from a router or DNS, and that is not
its own (`*.local`, its host name), is added there too, or signing in under it is refused.

## Endpoints

*needs* is the least role that a person must have in the workspace, and the scope of a token."""


def page() -> str:
    """docs/api.md."""
    numbers = {
        "gather": GATHER * 1000,
        "kept": KEPT,
        "ping": PING,
        "sockets": THREADS - SPARE,
        "waiting": MAX_WAITING,
    }
    parts = ["# The API", _MADE, _ABOUT % numbers]
    for noun in all_nouns():
        if noun.endpoints:
            parts += _noun(noun)
    return "\n\n".join(parts)


def _noun(noun: Noun) -> Iterator[str]:
    yield f"### {noun.name.replace('_', ' ').capitalize()}"
    yield noun.about
    yield markdown(["", "needs", "what it does"], [_row(endpoint) for endpoint in noun.endpoints])


def _row(endpoint: Endpoint) -> list[str]:
    path = (PREFIX + endpoint.path).removeprefix("/api/v1")
    return [f"`{endpoint.method} {path}`", _needs(endpoint), " ".join(endpoint.help.split())]


def _needs(endpoint: Endpoint) -> str:
    if endpoint.public:
        return "nothing"
    rule = PERMISSIONS[endpoint.permission]
    return f"{rule.role}{' of all' if rule.engine else ''}, `{rule.scope}`"
