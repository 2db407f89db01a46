"""From chat messages to the tokens of a prompt, by the template that the model file brings along.

Templates are Jinja2, run in a sandbox. Text of a message that spells a control token (``<|im_end|>``) stays text: it
cannot end the message or speak for somebody else. Where a template refuses roles that it does not know or two messages
of the same role, messages are joined and it is asked again; one that passes over texts gets them as lists of parts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from appliance.ai.host.llama.native import Model, Survey, formatter
from appliance.ai.host.llama.pictures import Picture
from appliance.ai.host.llama.slots import common_prefix
from appliance.contracts import ConfigError

#: Put around the number of a text that spells a control token, while the template is at work: private use characters.
_OPEN, _CLOSE = "\uf8f0", "\uf8f1"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

Message = dict[str, Any]
#: What a message says: texts and pictures, in their order.
Content = list[str | Picture]
#: A text that a template has to show, for one that does not would pass over what people say, too.
_PROBE = "What is said"


class Chat:
    """The chat format of one model. ``stops`` are texts that end an answer besides the model's own end tokens.

    ``see`` makes a picture of a file's content; None where the model sees none.
    """

    def __init__(self, model: Model, survey: Survey, see: Callable[[bytes], Picture] | None = None) -> None:
        self._model = model
        self._see = see
        begin, end = model.edges()
        self._begin = _spelling(model, begin)
        self.stops: tuple[str, ...] = ()
        template = model.template()
        if template is None:
            chatml = len(model.tokenize("<|im_start|>", begin=False, special=True)) == 1
            template = _CHATML if chatml else _PLAIN
            self.stops = ("<|im_end|>",) if chatml else ("\nUser:", "\nSystem:")
        self._template, self._end = template, _spelling(model, end)
        self._compiled: Callable[..., str] | None = None
        self._parts = False
        self._control = _control_tokens(model, survey)

    def tokens(self, messages: Sequence[Message], shared: int) -> tuple[list[int], int, list[Picture]]:
        """The prompt, how many of its first tokens come from the first ``shared`` messages alone, and its pictures.

        ``ConfigError`` for messages that are none, or that the template refuses.
        """
        plain = [self._content(message, number) for number, message in enumerate(messages)]
        tokens = self._tokens(plain)
        pictures = [part for message in plain for part in message["content"] if isinstance(part, Picture)]
        if shared < 1:
            return tokens, 0, pictures
        other = [*plain[:shared], *(_another(message) for message in plain[shared:])]
        if shared >= len(plain):
            other = [*plain, {"role": "user", "content": ["?"]}]
        return tokens, _before_pictures(tokens, common_prefix(tokens, self._tokens(other))), pictures

    def _content(self, message: Message, number: int) -> Message:
        """The message with its content as a list of texts and pictures. ``ConfigError`` for what is no message."""
        content = message.get("content")
        if not isinstance(message.get("role"), str):
            raise ConfigError(f"message {number + 1} has no role")
        parts: Content = []
        for part in content if isinstance(content, list) else [{"type": "text", "text": content or ""}]:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text", ""), str):
                parts.append(part.get("text", ""))
            elif kind == "image_url":
                parts.append(self._picture(part, number))
            else:
                raise ConfigError(f"message {number + 1}: content must be text, or parts of type text and image_url")
        return {**message, "content": parts}

    def _picture(self, part: Message, number: int) -> Picture:
        if self._see is None:
            raise ConfigError(f"message {number + 1}: this model sees no pictures, it reads text only")
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
        if not (head.startswith("data:") and head.endswith(";base64")):
            raise ConfigError(
                f"message {number + 1}: a picture comes as a data: URL in base64; nothing is fetched here"
            )
        try:
            found = base64.b64decode(data, validate=True)
        except ValueError:
            raise ConfigError(f"message {number + 1}: the picture is no base64") from None
        return self._see(found)

    def _tokens(self, messages: list[Message]) -> list[int]:
        hidden: list[str | Picture] = []

        def hide(found: str | Picture) -> str:
            hidden.append(found)
            return f"{_OPEN}{len(hidden) - 1}{_CLOSE}"

        def shown(part: str | Picture) -> str:
            if isinstance(part, Picture):
                return hide(part)
            return self._control.sub(lambda found: hide(found.group()), part)

        prompt = self._render([{**message, "content": "".join(map(shown, message["content"]))} for message in messages])
        begins = not (self._begin and prompt.startswith(self._begin))
        tokens: list[int] = []
        for number, part in enumerate(_MARK.split(prompt)):
            if number % 2:
                found = hidden[int(part)]
                if isinstance(found, Picture):
                    tokens += found.tokens
                else:
                    tokens += self._model.tokenize(found, begin=False, special=False)
            elif part or not number:
                tokens += self._model.tokenize(part, begin=begins and not number, special=True)
        return tokens

    def _render(self, messages: list[Message]) -> str:
        if self._compiled is None:
            try:
                self._compiled = formatter(self._template, self._begin, self._end)
            except Exception as error:  # whatever Jinja2 thinks of a stranger's template
                raise ConfigError(f"the model's chat template cannot be read: {error}") from error
            self._parts = _wants_parts(self._compiled)
        attempts = (messages, _joined(messages), _joined(_without_system(messages)))
        problem: Exception | None = None
        for attempt in attempts:
            try:
                return self._compiled(_in_parts(attempt) if self._parts else attempt, enable_thinking=False)
            except Exception as error:  # templates raise what they like
                problem = problem or error
        raise ConfigError(f"the model's chat template refuses these messages: {problem}") from problem


def _spelling(model: Model, token: int) -> str:
    return model.text(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


def _control_tokens(model: Model, survey: Survey) -> re.Pattern[str]:
    spellings = {
        model.text(token, special=True).decode("utf-8", "replace") for token in np.flatnonzero(survey.special).tolist()
    }
    spellings.discard("")
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, longest_first), f"[{_OPEN}{_CLOSE}]"]))


def _wants_parts(compiled: Callable[..., str]) -> bool:
    """Whether a template shows what is said only where that is a list of parts, as those of models that see may do."""
    messages = [{"role": "user", "content": _PROBE}]
    try:
        return _PROBE not in compiled(messages) and _PROBE in compiled(_in_parts(messages))
    except Exception:  # templates raise what they like; what it makes of real messages is seen then
        return False


def _in_parts(messages: list[Message]) -> list[Message]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _another(message: Message) -> Message:
    """The same message saying something else from its first character on."""
    first = next((part for part in message["content"] if isinstance(part, str)), "")
    return {**message, "content": ["0" if not first.lstrip().startswith("0") else "1"]}


def _before_pictures(tokens: list[int], length: int) -> int:
    """What is kept of a beginning ends where the first picture begins."""
    return next((place for place, token in enumerate(tokens[:length]) if token < 0), length)


def _joined(messages: list[Message]) -> list[Message]:
    """Messages of the same role in a row as one."""
    made: list[Message] = []
    for message in messages:
        if made and made[-1]["role"] == message["role"]:
            made[-1] = {**made[-1], "content": f"{made[-1]['content']}\n\n{message['content']}"}
        else:
            made.append(message)
    return made


def _without_system(messages: list[Message]) -> list[Message]:
    """System messages put into the mouth of the user."""
    return [{**message, "role": "user"} if message["role"] == "system" else message for message in messages]
