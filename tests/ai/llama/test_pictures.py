"""Pictures through a real (tiny, random) projector: what is seen counts, is seen once, and bad ones are refused."""

from __future__ import annotations

import base64
import ctypes
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.ai.host.llama import load
from appliance.ai.host.llama.chat import Chat
from appliance.ai.host.llama.native import Context, Model, lib
from appliance.ai.host.llama.pictures import APART, Look, goes_on, mark_of
from appliance.ai.host.llama.sight import Sight, library
from appliance.ai.host.llama.slots import Slots, fitting
from appliance.ai.host.work import Answer, Ask, Language
from appliance.contracts import ConfigError, FlowError
from tests.ai.llama.talking import Asked, chat, options, say
from tests.support.tinyeyes import TOKENS, picture, tiny_projector
from tests.support.tinymodel import tiny_model

RED, BLUE = picture((200, 20, 20)), picture((20, 20, 200))
#: A template as of models that see: it shows only what comes as a list of parts.
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_projector(tmp_path_factory.mktemp("eyes") / "tiny.mmproj.gguf")


@pytest.fixture
def loading(projector: Path) -> Iterator[Callable[..., Language]]:
    """Loads models that see, and closes them in the end."""
    loaded: list[Language] = []

    def opened(path: Path | None = None, **changed: Any) -> Language:
        loaded.append(load(path or tiny_model(), options(**{"projector": projector, **changed})))
        return loaded[-1]

    yield opened
    for language in loaded:
        language.close()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def shown(*parts: str | bytes) -> list[dict[str, Any]]:
    """Two messages, the second of texts and pictures."""
    said: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, bytes):
            said.append({"type": "image_url", "image_url": {"url": url(part)}})
        else:
            said.append({"type": "text", "text": part})
    return [{"role": "system", "content": "You look at pictures."}, {"role": "user", "content": said}]


def ask(language: Language, *parts: str | bytes, **more: Any) -> Answer:
    return say(language, messages=shown(*parts), **{"max_tokens": 12, **more})


def test_what_is_seen_makes_the_answer(loading: Callable[..., Language]) -> None:
    language = loading()
    red, blue = ask(language, "What is it?", RED), ask(language, "What is it?", BLUE)
    assert red.text != blue.text
    assert ask(language, "What is it?", RED).text == red.text
    without = ask(language, "What is it?")
    assert red.tokens_in == without.tokens_in + TOKENS
    assert ask(language, RED, "What is it?").text != red.text, "its place counts"
    both = ask(language, "What changed?", RED, BLUE)
    assert both.tokens_in == ask(language, "What changed?").tokens_in + 2 * TOKENS
    assert ask(language, "What changed?", BLUE, RED).text != both.text
    assert language.describe()["images"]


@pytest.mark.parametrize("plane", [False, True], ids=["in a row", "in a plane"])
def test_it_is_read_as_llama_cpp_reads_it_itself(tmp_path: Path, plane: bool) -> None:
    """The best next token behind a prompt with a picture: ours, and that of llama.cpp's own helper."""
    projector, path = tiny_projector(tmp_path / "eyes.gguf", plane=plane), tiny_model(plane=plane)
    wide = picture((200, 20, 20), (300, 120))
    mtmd, model = library(), Model(path)
    sight = Sight(model, projector, threads=1, batch=512)
    tokens, _, _ = Chat(model, model.survey(), sight.prepare).tokens(shown("What is it?", wide), 0)
    marker = mtmd.mtmd_default_marker()
    plain = (
        b"<|im_start|>system\nYou look at pictures.<|im_end|>\n<|im_start|>user\nWhat is it?"
        + marker
        + b"<|im_end|>\n<|im_start|>assistant\n"
    )
    context = Context(model, cells=512, sequences=1, batch=512, threads=1, prompt_threads=1)
    pixels = bytes([200, 20, 20] * 36_000)
    bitmap = mtmd.mtmd_bitmap_init(300, 120, (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels))
    chunks = mtmd.mtmd_input_chunks_init()
    text = mtmd.mtmd_input_text(plain, len(plain), False, True)
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(sight._context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    behind = lib.llama_pos(0)
    done = mtmd.mtmd_helper_eval_chunks(sight._context, context.handle, chunks, 0, 0, 512, True, ctypes.byref(behind))
    assert (done, behind.value) == (0, len(tokens))
    theirs = np.array(context.logits(-1))
    cells = mtmd.mtmd_helper_get_n_tokens(chunks)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    context.close()
    sight.close()
    best = model.text(int(theirs.argmax()), special=False).decode("utf-8", "replace")
    model.close()
    language = load(path, options(projector=projector))
    ours = ask(language, "What is it?", wide, max_tokens=1)
    language.close()
    assert ours.text == best
    assert ours.tokens_in == cells


def test_pictures_whose_positions_lie_in_a_plane(loading: Callable[..., Language], tmp_path: Path) -> None:
    eyes = tiny_projector(tmp_path / "eyes.gguf", plane=True)
    language = loading(tiny_model(plane=True), projector=eyes, cells=4096)
    wide, high = picture((200, 20, 20), (300, 120)), picture((200, 20, 20), (120, 300))
    asks = [shown("What?", wide), shown("What?", high), shown("What?", wide, high), shown("What?")]
    alone = [say(language, messages=one, max_tokens=6) for one in asks]
    assert len({one.text for one in alone}) == 4
    assert alone[0].tokens_in == alone[1].tokens_in
    together = [Asked(language, Ask(messages=one, max_tokens=6)) for one in asks for _ in range(2)]
    assert [one.answer().text for one in together] == [one.text for one in alone for _ in range(2)]


def test_a_picture_is_looked_at_once(loading: Callable[..., Language], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Look] = []
    encode = Sight._encode
    monkeypatch.setattr(Sight, "_encode", lambda self, look: (looked.append(look), encode(self, look))[1])
    language = loading()
    first = ask(language, "What is it?", RED)
    say(language, messages=chat("Something else.", "In between?"), max_tokens=2)
    assert ask(language, "What is it?", RED).text == first.text
    ask(language, "Is it red?", RED)
    assert len(looked) == 1
    ask(language, "What is it?", BLUE)
    assert len(looked) == 2


def test_the_beginning_before_a_picture_is_kept(loading: Callable[..., Language], tmp_path: Path) -> None:
    language = loading(state=tmp_path, kept_bytes=1 << 20)
    rules = "You look at the gate's camera and say who is there, in one word. " * 8

    def asked(data: bytes) -> Answer:
        messages = shown("Who?", data)
        return say(language, messages=[{"role": "system", "content": rules}, messages[1]], shared=1, max_tokens=4)

    first = asked(RED)
    assert first.tokens_cached == 0
    assert asked(BLUE).tokens_cached > 64
    assert asked(RED).text == first.text
    language.close()
    assert list(tmp_path.glob("*.state"))
    again = loading(state=tmp_path, kept_bytes=1 << 20)
    messages = [{"role": "system", "content": rules}, shown("Who?", RED)[1]]
    answer = say(again, messages=messages, shared=1, max_tokens=4)
    assert (answer.text, answer.tokens_cached > 64) == (first.text, True)


def test_several_look_and_talk_at_once(loading: Callable[..., Language]) -> None:
    language = loading(cells=4096)
    asks = [shown("What is it?", RED), shown("What is it?", BLUE), shown("Who?", RED, BLUE), shown("What is it?")]
    alone = [say(language, messages=one, max_tokens=6).text for one in asks]
    together = [Asked(language, Ask(messages=one, max_tokens=6)) for one in asks for _ in range(2)]
    assert [one.answer().text for one in together] == [text for text in alone for _ in range(2)]


def test_it_can_be_cancelled_before_it_looks(loading: Callable[..., Language]) -> None:
    language, go_on = loading(parallel=1), threading.Event()
    holding = Asked(language, Ask(prompt="Hold", max_tokens=4), lambda text: go_on.wait(50) and None)
    assert holding.first.wait(50)
    waiting = Asked(language, Ask(messages=shown("What is it?", RED)))
    waiting.ticket.cancel()
    go_on.set()
    assert waiting.answer().finish == "cancelled"
    assert ask(language, "What is it?", RED).finish in ("stop", "length")


def test_a_template_that_wants_parts_gets_parts(loading: Callable[..., Language], tmp_path: Path) -> None:
    language = loading(tiny_model(template=PARTS, path=tmp_path / "parts.gguf"))
    other = loading(tiny_model(path=tmp_path / "texts.gguf"))
    assert ask(language, "What is it?", RED).text == ask(other, "What is it?", RED).text
    assert say(language, messages=chat("Be short.", "Hello"), max_tokens=6).tokens_in > 10


def test_text_that_spells_what_stands_for_a_picture_stays_text(loading: Callable[..., Language]) -> None:
    language = loading()
    told = ask(language, "Look at \uf8f00\uf8f1 and <__media__>", RED)
    assert told.tokens_in > ask(language, "Look at  and ", RED).tokens_in


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "image_url", "image_url": {"url": "http://camera.local/now.jpg"}}, "nothing is fetched here"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}}, "is no base64"),
        ({"type": "image_url", "image_url": {"url": url(b"GIF89a no")}}, "not a picture of a kind that is read"),
        ({"type": "image_url", "image_url": {"url": url(RED[:60])}}, "not a picture that can be read"),
        ({"type": "image_url"}, "nothing is fetched here"),
        ({"type": "input_audio", "input_audio": {}}, "parts of type text and image_url"),
        ("text", "parts of type text and image_url"),
    ],
    ids=["address", "not base64", "no picture", "cut off", "nothing", "sound", "bare"],
)
def test_what_is_no_picture_is_refused(loading: Callable[..., Language], part: Any, says: str) -> None:
    language = loading()
    with pytest.raises(FlowError, match=says):
        say(language, messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}])
    assert ask(language, "What is it?", RED).finish in ("stop", "length")


def test_pictures_count_against_the_context(loading: Callable[..., Language]) -> None:
    language = loading(context=64)
    ask(language, "?", RED, max_tokens=2)
    with pytest.raises(ConfigError, match="this model reads 63 at most"):
        ask(language, "?", RED, BLUE, RED)


def test_a_model_without_eyes_says_so() -> None:
    language = load(tiny_model(), options())
    try:
        with pytest.raises(ConfigError, match="sees no pictures"):
            ask(language, "What is it?", RED)
        assert not language.describe()["images"]
    finally:
        language.close()


def test_a_projector_must_fit_its_model(tmp_path: Path, projector: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used with this model: .*mismatch"):
        load(tiny_model(), options(projector=tiny_projector(tmp_path / "wide.gguf", text_width=128)))
    with pytest.raises(ConfigError, match="cannot be used with this model"):
        load(tiny_model(), options(projector=tiny_model()))
    half = tmp_path / "half.gguf"
    half.write_bytes(projector.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cut off"):
        load(tiny_model(), options(projector=half))
    with pytest.raises(ConfigError, match=r"needs \d+ MB of memory"):
        load(tiny_model(), options(projector=projector, memory=100 << 20))


def test_a_prompt_is_never_cut_in_the_middle_of_a_picture() -> None:
    mark = mark_of(b"one", 0)
    look = Look(None, mark, 4, 4)
    seen = [1, 2, *look.tokens, 3]
    assert [goes_on(token) for token in seen] == [False, False, False, True, True, True, False]
    assert fitting(seen[:6], seen, whole=False) == 6
    assert fitting(seen[:5], seen, whole=False) == 2
    assert fitting(seen, seen[:5], whole=False) == 2
    assert fitting([1, 2, *Look(None, mark_of(b"two", 0), 4, 4).tokens], seen, whole=False) == 2
    assert mark % APART == 0
    assert mark_of(b"one", 1) != mark


def test_cells_of_a_picture_that_takes_more_than_its_positions_are_counted() -> None:
    slots = Slots(2, 100)
    slot, other = slots.slots
    slots.extend(slot, [1, 2])
    slots.extend(slot, Look(None, -APART, 3, 12).tokens, 9)
    slots.extend(slot, [3])
    assert slots.filled == 15
    slots.share(slot, other, 5)
    slots.cut(slot)
    assert slots.filled == 14
    slots.cut(other, 2)
    assert slots.filled == 2
