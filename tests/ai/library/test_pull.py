"""Getting models: from an address, the catalogue, a file, a stick's folder; and what is known of them afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.ai.host import files
from appliance.ai.library import bring, cards, catalogue, pull, room
from appliance.ai.library.errors import BadModel, CannotFetch, ModelIsThere, NoRoom, NoSuchModel
from appliance.contracts import ConfigError
from tests.ai.library.source import Source
from tests.support.tinyeyes import tiny_projector
from tests.support.tinymodel import tiny_adapter, tiny_embedder, tiny_model


@pytest.fixture
def source() -> Iterator[Source]:
    with Source({"Tiny-1M-Q8_0.gguf": tiny_model().read_bytes()}) as source:
        yield source


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def nothing(seconds: float) -> None:
    raise AssertionError("it waits")


def own_catalogue(data: Path, *entries: dict[str, Any]) -> None:
    (data / "models").mkdir(exist_ok=True)
    (data / "models" / "catalogue.json").write_text(json.dumps(entries))


def entry(**more: Any) -> dict[str, Any]:
    return {"name": "tiny", "title": "Tiny", "kind": "language", "about": "x", "licence": "MIT", "source": "s", **more}


# --- from an address ---


def test_an_address_becomes_a_model_with_a_card(source: Source, tmp_path: Path) -> None:
    content = source.files["Tiny-1M-Q8_0.gguf"]
    order = pull.order_of(tmp_path, source.url("Tiny-1M-Q8_0.gguf?download=true"))
    assert (order.name, order.bytes, order.checksum_known) == ("tiny-1m-q8_0", len(content), False)
    card = pull.pull(tmp_path, order, wait=nothing, now=lambda: 12.0)
    assert (card.sha256, card.size, card.checked, card.added) == (sha(content), len(content), False, 12.0)
    (found,) = cards.all_models(tmp_path)
    assert (found.name, found.kind, found.architecture, found.chat) == ("tiny-1m-q8_0", "language", "llama", True)
    assert (found.context, found.sha256, found.trouble) == (2048, sha(content), "")
    assert (found.quantization, found.parameters) == ("", 0), "this file does not say of what type it is"
    assert files.find(tmp_path, "tiny-1m-q8_0") is not None, "the host sees it under that name"
    assert [path.name for path in pull.folder_of(tmp_path).iterdir()] == []
    assert cards.verify(tmp_path, "tiny-1m-q8_0") == (True, sha(content))


def test_a_catalogue_entry_that_nobody_has_tried_is_called_so(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = source.files["Tiny-1M-Q8_0.gguf"]
    good = {"quantization": "Q8_0", "bytes": len(content), "url": source.url("Tiny-1M-Q8_0.gguf")}
    other = {**good, "quantization": "Q4_0", "bytes": 3 * len(content)}
    gone = {**good, "quantization": "Q2_K", "url": source.url("gone.gguf")}
    known = {**good, "quantization": "F32", "sha256": sha(content)}
    ours = msgspec.convert(entry(variants=[good, other, gone, known]), catalogue.CatalogueEntry)
    monkeypatch.setattr(catalogue, "_builtin", lambda: {"tiny": ours})
    assert pull.order_of(tmp_path, "tiny:Q8_0").note == catalogue.UNVERIFIED
    assert re.search(r"says [\d.]+ MB, its source [\d.]+ MB: it may", pull.order_of(tmp_path, "tiny:Q4_0").note)
    with pytest.raises(CannotFetch, match=r"404.*not verified by us and may be wrong: look at s,"):
        pull.order_of(tmp_path, "tiny:Q2_K")
    assert pull.order_of(tmp_path, "tiny:F32").note == ""
    own_catalogue(tmp_path, entry(variants=[good, gone]))
    assert pull.order_of(tmp_path, "tiny:Q8_0").note == "", "an owner's own entries are theirs to know"
    with pytest.raises(CannotFetch) as caught:
        pull.order_of(tmp_path, "tiny:Q2_K")
    assert "verified" not in caught.value.message


def test_without_a_network_nobody_is_sent_to_look_for_another_address(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    variant = {"quantization": "Q8_0", "bytes": 1, "url": "http://hub.invalid/Tiny-1M-Q8_0.gguf"}
    ours = msgspec.convert(entry(variants=[variant]), catalogue.CatalogueEntry)
    monkeypatch.setattr(catalogue, "_builtin", lambda: {"tiny": ours})
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(CannotFetch, match=r"is this machine on the network\?$"):
        pull.order_of(tmp_path, "tiny:Q8_0")


def test_a_second_one_of_that_name_is_refused(source: Source, tmp_path: Path) -> None:
    order = pull.order_of(tmp_path, source.url("Tiny-1M-Q8_0.gguf"))
    pull.pull(tmp_path, order, wait=nothing)
    with pytest.raises(ModelIsThere):
        pull.pull(tmp_path, order, wait=nothing)
    other = pull.order_of(tmp_path, source.url("Tiny-1M-Q8_0.gguf"), name="second")
    pull.pull(tmp_path, other, wait=nothing)
    assert [found.name for found in cards.all_models(tmp_path)] == ["second", "tiny-1m-q8_0"]


def test_a_wrong_checksum_leaves_nothing(source: Source, tmp_path: Path) -> None:
    order = pull.order_of(tmp_path, source.url("Tiny-1M-Q8_0.gguf"), sha256="0" * 64)
    assert order.checksum_known
    with pytest.raises(BadModel, match="should be 0000"):
        pull.pull(tmp_path, order, wait=nothing)
    assert cards.all_models(tmp_path) == []
    assert not list(pull.folder_of(tmp_path).glob("*.part"))


def test_the_first_pull_writes_the_checksum_down_and_later_ones_are_held_against_it(
    source: Source, tmp_path: Path
) -> None:
    url = source.url("Tiny-1M-Q8_0.gguf")
    assert not pull.pull(tmp_path, pull.order_of(tmp_path, url), wait=nothing).checked
    cards.remove(tmp_path, "tiny-1m-q8_0")
    again = pull.order_of(tmp_path, url)
    assert again.checksum_known
    assert pull.pull(tmp_path, again, wait=nothing).checked
    cards.remove(tmp_path, "tiny-1m-q8_0")
    source.files["Tiny-1M-Q8_0.gguf"] = tiny_model(seed=1).read_bytes()
    with pytest.raises(BadModel, match="checksum"):
        pull.pull(tmp_path, again, wait=nothing)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 100, None],
    ids=["empty", "page", "4", "huge", "cut"],
)
def test_what_is_no_whole_model_never_gets_a_name(source: Source, tmp_path: Path, content: bytes | None) -> None:
    whole = source.files["Tiny-1M-Q8_0.gguf"]
    source.files["bad.gguf"] = whole[: len(whole) // 2] if content is None else content
    with pytest.raises((BadModel, CannotFetch), match=r"bad\.gguf"):
        pull.pull(tmp_path, pull.order_of(tmp_path, source.url("bad.gguf")), wait=lambda seconds: None)
    assert cards.all_models(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/model.bin", "ends in .gguf"),
        ("http://127.0.0.1:9/m.gguf#sha", "ends in .gguf"),
        ("http://some where/m.gguf", "no address"),
        (f"http://127.0.0.1:9/{'m' * 3000}.gguf", "no address"),
    ],
)
def test_addresses_that_cannot_be_models_are_refused(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pull.order_of(tmp_path, url)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "engine", "x.gguf", "n" * 200])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        cards.check_name(name)


# --- in several files ---


def _split(folder: Path) -> list[Path]:
    """The tiny model in three files."""
    folder.mkdir()
    return list(files.parts(tiny_model(path=folder / "Tiny.gguf", split=8)))


def test_a_split_model_comes_whole_by_the_address_of_any_part(source: Source, tmp_path: Path) -> None:
    parts = _split(tmp_path / "made")
    source.files |= {path.name: path.read_bytes() for path in parts}
    order = pull.order_of(tmp_path, source.url(f"{parts[1].name}?download=true"))
    assert (order.name, len(order.parts), order.bytes) == ("tiny", 3, sum(path.stat().st_size for path in parts))
    source.cuts = [5000]
    card = pull.pull(tmp_path, order, wait=lambda seconds: None)
    assert (card.sha256, card.size) == (sha(parts[0].read_bytes()), order.bytes)
    assert list(card.others) == ["tiny-00002-of-00003.gguf", "tiny-00003-of-00003.gguf"]
    (found,) = cards.all_models(tmp_path)
    assert (found.name, found.bytes, found.architecture, found.trouble) == ("tiny", order.bytes, "llama", "")
    assert cards.verify(tmp_path, "tiny")[0]
    with (tmp_path / "models" / "tiny-00003-of-00003.gguf").open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")
    assert not cards.verify(tmp_path, "tiny")[0]
    assert pull.order_of(tmp_path, source.url(f"{parts[0].name}?download=true")).checksum_known
    cards.remove(tmp_path, "tiny")
    assert not list((tmp_path / "models").glob("tiny*"))


def test_parts_that_are_not_what_they_should_be_get_no_name(source: Source, tmp_path: Path) -> None:
    parts = _split(tmp_path / "made")
    source.files |= {parts[0].name: parts[0].read_bytes(), parts[1].name: parts[2].read_bytes()}
    with pytest.raises(CannotFetch, match="404"):
        pull.order_of(tmp_path, source.url(parts[0].name))
    source.files[parts[2].name] = parts[1].read_bytes()
    with pytest.raises(BadModel, match="part 3 of 3 of a model, and should be part 2 of 3"):
        pull.pull(tmp_path, pull.order_of(tmp_path, source.url(parts[0].name)), wait=nothing)
    with pytest.raises(ConfigError, match="several checksums"):
        pull.order_of(tmp_path, source.url(parts[0].name), sha256="0" * 64)
    source.files["alone.gguf"] = parts[1].read_bytes()
    with pytest.raises(BadModel, match="part 2 of 3"):
        pull.pull(tmp_path, pull.order_of(tmp_path, source.url("alone.gguf")), wait=nothing)
    assert cards.all_models(tmp_path) == []


def test_a_split_model_is_imported_from_a_stick(tmp_path: Path) -> None:
    parts = _split(tmp_path / "stick")
    (local,) = bring.look_at(tmp_path / "stick")
    bring.bring(tmp_path, local)
    (found,) = cards.all_models(tmp_path)
    assert (found.name, found.bytes, found.trouble) == ("tiny", sum(path.stat().st_size for path in parts), "")
    assert cards.verify(tmp_path, "tiny")[0]
    parts[1].unlink()
    with pytest.raises(ConfigError, match=r"Tiny-00002-of-00003\.gguf is not beside it"):
        bring.look_at(parts[0])
    (tmp_path / "models" / "tiny-00002-of-00003.gguf").unlink()
    assert "there is no model file" in cards.all_models(tmp_path)[0].trouble


# --- with eyes ---


def test_a_projector_comes_along_with_its_model(source: Source, tmp_path: Path) -> None:
    eyes = tiny_projector(tmp_path / "mmproj-tiny-f32.gguf").read_bytes()
    source.files["mmproj-tiny-f32.gguf"] = eyes
    model, projector = source.url("Tiny-1M-Q8_0.gguf"), source.url("mmproj-tiny-f32.gguf")
    order = pull.order_of(tmp_path, model, projector=projector)
    assert order.bytes == len(source.files["Tiny-1M-Q8_0.gguf"]) + len(eyes)
    card = pull.pull(tmp_path, order, wait=nothing)
    assert card.others == {"tiny-1m-q8_0.mmproj.gguf": sha(eyes)}
    (found,) = cards.all_models(tmp_path)
    assert (found.images, found.bytes, found.trouble) == (True, order.bytes, "")
    cards.remove(tmp_path, "tiny-1m-q8_0")
    assert not list((tmp_path / "models").glob("*.gguf"))
    variant = {"quantization": "Q8_0", "bytes": 5, "url": model, "projector": projector, "projector_sha256": sha(eyes)}
    own_catalogue(tmp_path, entry(variants=[variant]))
    pull.pull(tmp_path, pull.order_of(tmp_path, "tiny"), wait=nothing)
    assert cards.all_models(tmp_path)[0].images


def test_what_is_no_projector_is_refused_and_a_projector_alone_too(source: Source, tmp_path: Path) -> None:
    source.files["eyes.gguf"] = tiny_projector(tmp_path / "eyes.gguf").read_bytes()
    model, eyes = source.url("Tiny-1M-Q8_0.gguf"), source.url("eyes.gguf")
    with pytest.raises(BadModel, match="is no projector"):
        pull.pull(tmp_path, pull.order_of(tmp_path, model, projector=model), wait=nothing)
    with pytest.raises(BadModel, match="this is a projector, which makes a model see"):
        pull.pull(tmp_path, pull.order_of(tmp_path, eyes), wait=nothing)
    with pytest.raises(ConfigError, match="brings its projector along"):
        pull.order_of(tmp_path, "qwen2.5-0.5b", projector=eyes)
    assert cards.all_models(tmp_path) == []


def test_a_projector_beside_a_model_on_a_stick_is_taken(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "tiny.gguf").write_bytes(tiny_model().read_bytes())
    tiny_projector(stick / "mmproj-model-f16.gguf")
    (local,) = bring.look_at(stick)
    assert local.projector == stick / "mmproj-model-f16.gguf"
    (alone,) = bring.look_at(stick / "mmproj-model-f16.gguf")
    assert alone.projector is None
    with pytest.raises(BadModel, match="this is a projector"):
        bring.bring(tmp_path, alone)
    bring.bring(tmp_path, local)
    assert cards.all_models(tmp_path)[0].images
    assert cards.verify(tmp_path, "tiny")[0]
    (stick / "other.gguf").write_bytes(tiny_model().read_bytes())
    assert [each.projector for each in bring.look_at(stick)] == [None, None], "whose it is nobody knows"
    (given,) = bring.look_at(stick / "other.gguf", stick / "mmproj-model-f16.gguf")
    assert given.projector is not None
    (stick / "mmproj-model-f16.gguf").rename(stick / "other.mmproj.gguf")
    assert {each.name: bool(each.projector) for each in bring.look_at(stick)} == {"other": True, "tiny": False}


# --- from the catalogue ---


def test_the_built_in_catalogue_is_in_order() -> None:
    entries = catalogue.catalogue()
    assert {"qwen2.5-0.5b", "llama-3.2-1b", "all-minilm-l6-v2"} <= set(entries)
    for each in entries.values():
        assert each.licence, each.name
        assert each.source.startswith("https://"), each.name
        names = [variant.quantization for variant in each.variants]
        assert len(names) == len(set(names)), each.name
        for variant in each.variants:
            assert bool(variant.url) != bool(variant.parts), each.name
            assert cards.check_name(f"{each.name}-{variant.quantization.lower()}")
            assert all(url.startswith("https://") for url in [variant.url, *(p.url for p in variant.parts)] if url)
        if each.kind == "language":
            assert each.parameters * 0.4 < each.variants[0].bytes < each.parameters * 1.5
            assert each.cell > 0


def test_manifests_of_the_catalogue_are_what_the_host_reads(tmp_path: Path) -> None:
    from appliance.ai.host.onnx import manifest

    for each in catalogue.catalogue().values():
        for variant in each.variants:
            if variant.parts:
                assert files.ONNX in [part.path for part in variant.parts]
                (tmp_path / files.MANIFEST).write_text(json.dumps(variant.manifest))
                assert not isinstance(manifest.read(tmp_path), manifest.Run)


def test_owners_add_and_replace_entries(source: Source, tmp_path: Path) -> None:
    url = source.url("Tiny-1M-Q8_0.gguf")
    variants = [{"quantization": "F32", "bytes": 1, "url": url}, {"quantization": "Q8_0", "bytes": 2, "url": url}]
    own_catalogue(tmp_path, entry(variants=variants), entry(name="qwen2.5-0.5b", variants=variants))
    entries = catalogue.catalogue(tmp_path)
    assert entries["qwen2.5-0.5b"].title == "Tiny"
    assert "llama-3.2-1b" in entries
    order = pull.order_of(tmp_path, "Tiny:q8-0")
    assert (order.name, order.licence, order.title) == ("tiny-q8_0", "MIT", "Tiny")
    assert order.bytes == len(source.files["Tiny-1M-Q8_0.gguf"]), "the source knows better than the catalogue"
    assert order.free > 0, "the room on the disk is said before anything is fetched"
    assert pull.order_of(tmp_path, "tiny", ask=False).bytes == 1
    pull.pull(tmp_path, order, wait=nothing)
    assert cards.all_models(tmp_path)[0].licence == "MIT"


def test_a_wrong_catalogue_says_where(tmp_path: Path) -> None:
    own_catalogue(tmp_path, entry(variants=[{"quantization": "F32", "bytes": 1, "url": "ftp://x"}]))
    with pytest.raises(ConfigError, match=r"catalogue\.json.*url"):
        catalogue.catalogue(tmp_path)


def test_an_unknown_name_is_said_with_those_that_are_near(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"do you mean .*qwen2\.5-0\.5b"):
        pull.order_of(tmp_path, "qwen", ask=False)
    with pytest.raises(NoSuchModel, match="comes as Q4_K_M"):
        pull.order_of(tmp_path, "qwen2.5-0.5b:Q2_K", ask=False)


def test_a_model_of_several_files_comes_as_a_folder(source: Source, tmp_path: Path) -> None:
    source.files |= {"a.onnx": b"graph", "t.json": b"{}"}
    parts = [
        {"path": "model.onnx", "url": source.url("a.onnx")},
        {"path": "tokenizer.json", "url": source.url("t.json")},
    ]
    variant = {"quantization": "INT8", "bytes": 7, "parts": parts, "manifest": {"task": "embed"}}
    own_catalogue(tmp_path, entry(name="mini", kind="embedding", variants=[variant]))
    order = pull.order_of(tmp_path, "mini")
    assert (order.name, order.bytes) == ("mini", 7)
    source.cuts = [2]
    pull.pull(tmp_path, order, wait=lambda seconds: None)
    folder = tmp_path / "models" / "mini"
    assert (folder / "model.onnx").read_bytes() == b"graph"
    assert json.loads((folder / "model.json").read_text()) == {"task": "embed"}
    (found,) = cards.all_models(tmp_path)
    assert (found.name, found.kind, found.licence) == ("mini", "embed", "MIT")
    assert cards.remove(tmp_path, "mini") > 0
    assert cards.all_models(tmp_path) == []
    assert not folder.exists()


# --- from this machine ---


def test_a_file_is_copied_and_checked(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "My Model.gguf").write_bytes(tiny_embedder().read_bytes())
    (local,) = bring.look_at(stick / "My Model.gguf")
    assert local.name == "my-model"
    card = bring.bring(tmp_path, local)
    assert card.sha256 == sha(tiny_embedder().read_bytes())
    (found,) = cards.all_models(tmp_path)
    assert (found.name, found.kind) == ("my-model", "embedding")
    assert (tmp_path / "models" / "my-model.gguf").stat().st_nlink == 1
    with pytest.raises(ModelIsThere):
        bring.bring(tmp_path, local)


def test_a_hard_link_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_model().read_bytes())
    monkeypatch.setattr(room, "SPARE", 1 << 60)
    (local,) = bring.look_at(tmp_path / "m.gguf")
    with pytest.raises(NoRoom):
        bring.bring(tmp_path, local)
    bring.bring(tmp_path, local, link=True)
    assert os.path.samefile(tmp_path / "m.gguf", tmp_path / "models" / "m.gguf")


def test_a_stick_is_looked_through(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    for name in ("deep", "onnx-one", "empty", ".trash"):
        (stick / name).mkdir(parents=True)
    (stick / "one.gguf").write_bytes(tiny_model().read_bytes())
    (stick / "deep" / "two.gguf").write_bytes(b"GGUF not really")
    (stick / "onnx-one" / "model.onnx").write_bytes(b"graph")
    (stick / ".trash" / "three.gguf").write_bytes(b"")
    (stick / "notes.txt").write_text("x")
    found = {local.name: local for local in bring.look_at(stick)}
    assert set(found) == {"one", "two", "onnx-one"}
    bring.bring(tmp_path, found["one"])
    bring.bring(tmp_path, found["onnx-one"])
    with pytest.raises(BadModel):
        bring.bring(tmp_path, found["two"])
    assert [each.name for each in cards.all_models(tmp_path)] == ["one", "onnx-one"]
    with pytest.raises(NoSuchModel, match="no model in"):
        bring.look_at(stick / "empty")
    with pytest.raises(NoSuchModel, match="no file or folder"):
        bring.look_at(stick / "nowhere")


# --- what is there ---


def test_a_file_that_somebody_put_there_is_a_model_too_and_a_broken_one_says_why(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.gguf").write_bytes(tiny_model().read_bytes())
    (models / "broken.gguf").write_bytes(tiny_model().read_bytes()[:5000])
    (models / "engine").mkdir()
    broken, mine = cards.all_models(tmp_path)
    assert (mine.name, mine.licence, mine.trouble) == ("mine", "", "")
    assert "cut off" in broken.trouble
    with pytest.raises(BadModel, match="no checksum"):
        cards.verify(tmp_path, "mine")
    with pytest.raises(NoSuchModel, match="broken, mine"):
        cards.find(tmp_path, "other")
    assert cards.remove(tmp_path, "broken") == 5000


def test_an_adapter_comes_beside_its_model_and_goes_alone(tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "House-LoRA.gguf")
    bring.bring(tmp_path, bring.look_at(tiny_model())[0])
    (base,) = cards.all_models(tmp_path)
    with pytest.raises(BadModel, match=r"LoRA adapter.*--adapter-of"):
        bring.bring(tmp_path, bring.look_at(adapter)[0])
    name, card = bring.bring_adapter(tmp_path, adapter, base.name)
    assert name == f"{base.name}+house-lora"
    assert [(view.name, view.bytes, view.trouble) for view in cards.all_models(tmp_path)] == [
        (base.name, base.bytes, ""),
        (name, adapter.stat().st_size, ""),
    ]
    found = files.find(tmp_path, base.name)
    assert found is not None and list(found.adapters) == ["house-lora"], "the host sees it"
    assert cards.as_default(cards.view(cards.find(tmp_path, name))) == {"model_default": (name,)}
    assert cards.verify(tmp_path, name) == (True, card.sha256)
    with pytest.raises(ModelIsThere):
        bring.bring_adapter(tmp_path, adapter, base.name)
    with pytest.raises(NoSuchModel, match=re.escape(name)):
        cards.find(tmp_path, f"{base.name}+other")
    assert cards.remove(tmp_path, name) == adapter.stat().st_size
    assert [view.name for view in cards.all_models(tmp_path)] == [base.name]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        f"{base.name}.gguf", f"{base.name}.json", "pulls"
    ]  # fmt: skip


def test_what_is_no_adapter_of_that_model_is_refused(tmp_path: Path) -> None:
    bring.bring(tmp_path, bring.look_at(tiny_embedder())[0])
    (base,) = cards.all_models(tmp_path)
    with pytest.raises(BadModel, match=r"is an adapter of a 'llama', and .* is a 'bert'"):
        bring.bring_adapter(tmp_path, tiny_adapter(tmp_path / "a.gguf"), base.name)
    with pytest.raises(BadModel, match="is no LoRA adapter"):
        bring.bring_adapter(tmp_path, tiny_model(), base.name)
    with pytest.raises(NoSuchModel):
        bring.bring_adapter(tmp_path, tmp_path / "a.gguf", "nobody")


def test_damage_on_the_disk_is_found(source: Source, tmp_path: Path) -> None:
    pull.pull(tmp_path, pull.order_of(tmp_path, source.url("Tiny-1M-Q8_0.gguf")), wait=nothing)
    with (tmp_path / "models" / "tiny-1m-q8_0.gguf").open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")
    assert not cards.verify(tmp_path, "tiny-1m-q8_0")[0]
    (tmp_path / "models" / "mine.gguf").write_bytes(tiny_model().read_bytes()[:100_000])
    with pytest.raises(BadModel, match=r"mine\.gguf is cut off: it has 100000 bytes"):
        cards.verify(tmp_path, "mine")
