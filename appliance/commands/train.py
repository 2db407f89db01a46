"""``flowork train``: the training workshop, of the extra ``flowork[train]``."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.contracts import ConfigError
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.ai.training.rows import Row

command = noun("train", "Train small models on this machine: data sets, LoRA, GGUF files, comparing two models.")

_NEEDED = ("torch", "transformers", "peft", "gguf", "safetensors")
_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)


def _need(*names: str) -> None:
    """Raise ``ConfigError`` with what to do if the extra is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}, about 1.2 GB: install it with "
            f"`{Path(sys.executable).parent / 'pip'} install 'flowork[train]'` (in a checkout: `-e '.[train]'`)"
        )


def _place(session: Session, name: str, kind: str) -> Path:
    """Where a data set or a training of that name lies."""
    if not name or "/" in name or name.startswith("."):
        raise click.UsageError(f"{name!r} is no name; use letters, digits, - and _")
    return session.need_engine() / "training" / kind / name


@leaf(
    "flowork train dataset house --file home.jsonl --file notes/",
    "flowork train dataset guard --runs greenhouse --step say",
    of=command,
)
@click.argument("name")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="JSON lines, CSV, text, or a folder of them.",
)
@click.option("--runs", "flow_id", default="", metavar="FLOW", help="What its runs asked a model, and what came back.")
@click.option("--step", default="", metavar="NODE", help="With --runs: only this step. [default: all that ask a model]")
@click.option("--whole", is_flag=True, help="With --runs: the run's payload and its output, as of a chat.")
@click.option("--most", type=click.IntRange(1), default=10_000, show_default=True, help="With --runs: how many runs.")
@click.option(
    "--held", type=click.FloatRange(0, 0.9), default=0.1, show_default=True, help="Share that is never trained on."
)
def dataset(
    session: Session, name: str, files: tuple[Path, ...], flow_id: str, step: str, whole: bool, most: int, held: float
) -> None:
    """Make a data set of files and runs: cleaned, without duplicates, with some questions held out.

    Nothing is put in that was not there, and what holds a hidden secret is left out.
    """
    _need("numpy")
    from appliance.ai.training import dataset as sets
    from appliance.ai.training.rows import read

    if not files and not flow_id:
        raise click.UsageError("name some --file, or the --runs of a flow")

    def rows() -> Iterable[Row]:
        for file in files:
            yield from read(file)
        if flow_id:
            from appliance.commands._training import rows_of_runs

            yield from rows_of_runs(session, flow_id, step, whole, most)

    target = _place(session, name, "sets")
    report = sets.make(rows(), target, held)
    if session.as_json:
        out.emit(
            {"name": name, "folder": str(target), **{key: getattr(report, key) for key in report.__struct_fields__}}
        )
        return
    out.say(f"{name}: {counted(report.train, 'row')} to train on, {report.held} held out, of {report.read} read")
    if not report.held:
        out.say("  nothing is held out: how good a training of it is cannot be told; give it more rows")
    for reason, count in sorted(report.dropped.items()):
        out.say(f"  left out: {count} ({reason})")
    out.say(f"  in {out.plain(target)}")


@leaf("flowork train tune guard --base ~/models/SmolLM2-135M-Instruct --set house", of=command)
@click.argument("name")
@click.option(
    "--base", type=_folder, required=True, help="The model's folder: config.json, tokenizer.json, safetensors."
)
@click.option("--set", "data_name", required=True, metavar="NAME", help="A data set of `flowork train dataset`.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Times through the rows.")
@click.option(
    "--rank", type=click.IntRange(1, 512), default=8, show_default=True, help="Of LoRA: how much can be learnt."
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=2e-4, show_default=True, help="Learning rate."
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Rows of one step.")
@click.option(
    "--longest",
    type=click.IntRange(16),
    default=1024,
    show_default=True,
    help="Tokens of a row; longer ones are left out.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="[default: all cores]")
def tune(
    session: Session,
    name: str,
    base: Path,
    data_name: str,
    epochs: int,
    rank: int,
    rate: float,
    batch: int,
    longest: int,
    threads: int,
) -> int:
    """Fine-tune a model by LoRA on this machine's hardware.

    Ctrl-C stops it with a checkpoint; the same command goes on there, also after a power cut. What is held out is asked
    before and after, and the best adapter is kept.
    """
    _need(*_NEEDED)
    from appliance.ai.training.lora import Plan, Told, Tuning

    plan = Plan(epochs=epochs, rank=rank, alpha=2.0 * rank, rate=rate, batch=batch, longest=longest, threads=threads)
    target = _place(session, name, "runs")
    stopping: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: stopping.append(True))
    try:
        with progress(session, "training", unit="steps") as tell:

            def told(one: Told) -> None:
                tell(one.step, one.steps, f"loss {one.loss:.3f}, {one.speed:.0f} tokens/s")

            outcome = Tuning(base, _place(session, data_name, "sets"), target, plan, told, lambda: bool(stopping)).run()
    finally:
        signal.signal(signal.SIGINT, before)
    view = {
        "state": outcome.state,
        "step": outcome.step,
        "steps": outcome.steps,
        "loss_before": outcome.before.loss,
        "loss_after": outcome.after.loss,
        "right_before": outcome.before.right,
        "right_after": outcome.after.right,
        "rows": outcome.rows,
        "held": outcome.held,
        "too_long": outcome.long,
        "adapter": outcome.adapter,
    }
    if session.as_json:
        out.emit(view)
    else:
        goes_on = "; the same command goes on there" if outcome.state == "stopped" else ""
        out.say(f"{outcome.state} at step {outcome.step} of {outcome.steps}{goes_on}")
        if outcome.long:
            out.say(f"left out: {counted(outcome.long, 'row')} of more than {longest} tokens (--longest)")
        out.say(
            f"held out: loss {outcome.before.loss:.3f} → {outcome.after.loss:.3f}, "
            f"answers right {outcome.before.right:.0%} → {outcome.after.right:.0%}"
            if outcome.held
            else "nothing was held out: how good it is cannot be told"
        )
        out.say(f"adapter: {out.plain(outcome.adapter)}" if outcome.adapter else "no adapter yet")
    return 130 if outcome.state == "stopped" else 0


@leaf("flowork train merge ~/models/SmolLM2 FloworkData/training/runs/guard/adapter ~/models/guard", of=command)
@click.argument("base", type=_folder)
@click.argument("adapter", type=_folder)
@click.argument("target", type=click.Path(path_type=Path))
def merge(session: Session, base: Path, adapter: Path, target: Path) -> None:
    """Work an adapter into its model: a folder of safetensors like the model's own."""
    _need(*_NEEDED)
    from appliance.ai.training.lora import merge as work_in

    work_in(base, adapter, target)
    session.done({"folder": str(target)}, f"written: {out.plain(target)}")


@leaf("flowork train convert ~/models/guard FloworkData/models/guard.gguf --type f16", of=command)
@click.argument("source", type=_folder)
@click.argument("target", type=_file)
@click.option(
    "--type", "kind", type=click.Choice(["f16", "f32"]), default="f16", show_default=True, help="Of the weights."
)
def convert(session: Session, source: Path, target: Path, kind: str) -> None:
    """Write a folder of safetensors as a GGUF file, which the model host loads."""
    _need("gguf", "safetensors")
    from appliance.ai.training.convert import convert as write

    with progress(session, "converting", unit="tensors") as tell:
        write(source, target, kind, lambda done, of: tell(done, of, ""))
    _written(session, target)


@leaf("flowork train adapter FloworkData/training/runs/guard/adapter ~/models/SmolLM2 guard-lora.gguf", of=command)
@click.argument("adapter", type=_folder)
@click.argument("base", type=_folder)
@click.argument("target", type=_file)
def adapter(session: Session, adapter: Path, base: Path, target: Path) -> None:
    """Write a LoRA adapter as a GGUF file of its own, to be loaded beside its model."""
    _need("gguf", "safetensors")
    from appliance.ai.training.convert import convert_adapter

    convert_adapter(adapter, base, target)
    _written(session, target)
    session.note(f"beside its model it comes by: flowork models pull {target} --adapter-of MODEL")


@leaf("flowork train quantize guard.gguf guard-q4.gguf q4_k_m", of=command)
@click.argument("source", type=_file)
@click.argument("target", type=_file)
@click.argument("kind", metavar="TYPE")
@click.option("--threads", type=click.IntRange(0), default=0, help="[default: all cores]")
def quantize(session: Session, source: Path, target: Path, kind: str, threads: int) -> None:
    """Store a GGUF file's weights in fewer bits: any type that llama.cpp has, such as q8_0 or q4_k_m."""
    _need("llama_cpp")
    words = [sys.executable, "-m", "appliance.ai.host.llama.quantize", str(source), str(target), kind, str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "llama.cpp died of it")
    _written(session, target)


@leaf(
    "flowork train arena SmolLM2-135M guard-q4 --set guard",
    "flowork train arena guard-q4 cloud/gpt-5-mini --file questions.jsonl --judge cloud/gpt-5",
    of=command,
)
@click.argument("one")
@click.argument("other")
@click.option("--set", "data_name", default="", metavar="NAME", help="What this data set holds out.")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), help="Questions with answers.")
@click.option("--judge", default="", metavar="MODEL", help="A third model says which answer is better.")
@click.option("--most", type=click.IntRange(1), default=100, show_default=True, help="Questions at most.")
@click.option("--tokens", type=click.IntRange(1), default=256, show_default=True, help="Of an answer at most.")
def arena(
    session: Session,
    one: str,
    other: str,
    data_name: str,
    files: tuple[Path, ...],
    judge: str,
    most: int,
    tokens: int,
) -> None:
    """Compare two models of the running engine on the same questions, side by side."""
    _need("numpy")
    from appliance.ai.training.arena import compare
    from appliance.ai.training.dataset import load
    from appliance.ai.training.rows import read

    rows = [row for file in files for row in read(file)]
    if data_name:
        rows += load(_place(session, data_name, "sets"), "held")
    if not rows and data_name:
        raise ConfigError(f"the data set {data_name!r} holds nothing out; give a --file with questions and answers")
    if not rows:
        raise click.UsageError("give a --set or a --file with questions")

    def ask(model: str, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> dict[str, Any]:
        request = {"messages": messages, "models": [model], "schema": schema, "max_tokens": tokens, "cache": False}
        reply: dict[str, Any] = session.call("model_chat", 600.0, who="arena", request=request)
        return reply

    with progress(session, "asking", unit="questions") as tell:
        result = compare(rows[:most], one, other, ask, judge, lambda done, of: tell(done, of, ""))
    if session.as_json:
        out.emit(msgspec.to_builtins(result))
        return
    for bout in result.bouts:
        out.say(f"? {out.one_line(bout.question)}", bold=True)
        out.say(f"  {one}: {out.one_line(bout.a)}{' *' if bout.winner == 'a' else ''}")
        out.say(f"  {other}: {out.one_line(bout.b)}{' *' if bout.winner == 'b' else ''}")
    head = ("", "wins", "right", "near", "seconds")
    times = (sum(bout.seconds_a for bout in result.bouts), sum(bout.seconds_b for bout in result.bouts))
    table = (
        (one, result.wins_a, result.exact_a, f"{result.near_a:.0%}", f"{times[0]:.1f}"),
        (other, result.wins_b, result.exact_b, f"{result.near_b:.0%}", f"{times[1]:.1f}"),
    )
    out.table(head, table)


def _written(session: Session, target: Path) -> None:
    size = target.stat().st_size
    session.done({"file": str(target), "bytes": size}, f"written: {out.plain(target)} ({out.size(size)})")
