"""``flowork upstream``: other places with models that this engine may ask."""

from __future__ import annotations

from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

command = noun("upstream", "Other places with models: `models: [UPSTREAM/NAME]` in a step.", default="list")

SETTING = "model_upstreams"


@leaf("flowork upstream list", "flowork upstream list --json", of=command, name="list")
def list_(session: Session) -> None:
    """List the upstreams: who sees what they are asked, and what is wrong with them."""
    from appliance.ai.gateway.names import Upstreams

    raw = _raw(session)
    found = Upstreams(session.registry.providers, raw)
    items = [
        {
            "name": name,
            "upstream": entry,
            "place": found.known[name].place if name in found.known else "",
            "error": found.broken.get(name, ""),
        }
        for name, entry in sorted(raw.items())
    ]
    if session.as_json:
        out.emit({"items": items})
    elif not items:
        out.say("no upstreams; set one up with `flowork upstream set NAME URL`")
    else:
        out.table(
            ("name", "address", "who sees it", "fault"),
            [(one["name"], _url(one["upstream"]), one["place"] or "this machine alone", one["error"]) for one in items],
        )


@leaf(
    "flowork upstream set ollama http://ollama.lan:11434/v1",
    "flowork upstream set openai https://api.openai.com/v1 --secret openai_key --model gpt-5-mini --budget-day 0.50",
    of=command,
    name="set",
)
@click.argument("name")
@click.argument("url")
@click.option("--secret", metavar="NAME", help="The secret (of the default workspace) that holds the key.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="A model; the first is its default. May repeat.")
@click.option("--no-images", is_flag=True, help="Its models do not see pictures.")
@click.option("--at-once", type=click.IntRange(0), help="Requests at once; 0: any. [default: 8]")
@click.option("--requests-minute", type=click.IntRange(0), help="Requests in a minute; 0: any.")
@click.option("--tokens-minute", type=click.IntRange(0), help="Tokens in a minute; 0: any.")
@click.option("--budget-day", type=click.FloatRange(0), help="US dollars in a day; 0: any.")
@click.option("--price-in", type=click.FloatRange(0), help="US dollars a million tokens of prompt.")
@click.option("--price-out", type=click.FloatRange(0), help="US dollars a million tokens of answer.")
def set_(session: Session, name: str, url: str, **options: Any) -> None:
    """Set up a server with the OpenAI API: OpenAI, Gemini, Ollama, vLLM, another Flowork. Replaces one of that name."""
    from appliance.ai.gateway.names import read

    config: dict[str, Any] = {"url": url}
    if secret := options.pop("secret"):
        config["secret"] = secret
        if secret not in session.secrets.names("default"):
            session.note(f"there is no secret {secret!r} yet: flowork secret set {secret}")
    if models := options.pop("models"):
        config["models"] = list(models)
    if options.pop("no_images"):
        config["images"] = False
    entry = {"provider": "openai", "config": config, **{key: one for key, one in options.items() if one is not None}}
    upstream = read(session.registry.providers, name, entry)
    session.store.settings.set({SETTING: {**_raw(session), name: entry}})
    session.audit("upstream.set", name, {"upstream": entry})
    where = f"{upstream.place} sees" if upstream.place else "nobody but this machine sees"
    session.done({"name": name, "kernel": session.reload()}, f"set {name}; {where} what its models are asked")


@leaf("flowork upstream try openai", of=command, name="try")
@click.argument("name")
def try_(session: Session, name: str) -> int:
    """Ask an upstream for its models: whether its address and key are right."""
    from appliance.store.errors import NotFound

    if name not in _raw(session):
        raise NotFound(f"there is no upstream {name!r}")
    (told,) = session.call("model_list", 40.0, upstream=name)
    error = told.get("error", "")
    models = [model["name"] for model in told.get("models", ())]
    if session.as_json:
        out.emit({"ok": not error, "error": error, "models": models})
    elif error:
        session.fail("node-failed", error)
    else:
        for model in models:
            out.say(out.plain(f"{name}/{model}"))
    return 1 if error else 0


@leaf("flowork upstream delete openai", of=command)
@click.argument("name")
@given.yes_option
def delete(session: Session, name: str, yes: bool) -> None:
    """Forget an upstream. Steps that name its models pass it over, or fail."""
    from appliance.store.errors import NotFound

    raw = _raw(session)
    if name not in raw:
        raise NotFound(f"there is no upstream {name!r}")
    given.confirmed(yes, f"Forget the upstream {name!r}?")
    del raw[name]
    session.store.settings.set({SETTING: raw})
    session.audit("upstream.delete", name)
    session.done({"deleted": name, "kernel": session.reload()}, f"forgot {name}")


def _raw(session: Session) -> dict[str, Any]:
    return dict(session.store.settings.load().model_upstreams)


def _url(entry: Any) -> str:
    config = entry.get("config") if isinstance(entry, dict) else None
    return str(config.get("url", "")) if isinstance(config, dict) else ""
