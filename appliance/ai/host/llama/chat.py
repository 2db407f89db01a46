"""From chat messages to the tokens of a prompt, by the template that the model file brings along.

Templates are Jinja2, run in a sandbox. Text of a message that spells a control token (``<|im_end|>``) stays text: it
cannot end the message or speak for somebody else. Where a template refuses roles that it does not know or two messages
of the same role, messages are joined and it is asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from appliance.ai.host.llama.native import Model, Survey, formatter
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


class Chat:
    """The chat format of one model. ``stops`` are texts that end an answer besides the model's own end tokens."""

    def __init__(self, model: Model, survey: Survey) -> None:
        self._model = model
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
        self._control = _control_tokens(model, survey)

    def tokens(self, messages: Sequence[Message], shared: int) -> tuple[list[int], int]:
        """The prompt, and how many of its first tokens come from the first ``shared`` messages alone.

        ``ConfigError`` for messages that are none, or that the template refuses.
        """
        plain = [_as_text(message, number) for number, message in enumerate(messages)]
        tokens = self._tokens(plain)
        if shared < 1:
            return tokens, 0
        other = [*plain[:shared], *(_another(message) for message in plain[shared:])]
        if shared >= len(plain):
            return tokens, common_prefix(tokens, self._tokens([*plain, {"role": "user", "content": "?"}]))
        return tokens, common_prefix(tokens, self._tokens(other))

    def _tokens(self, messages: list[Message]) -> list[int]:
        texts: list[str] = []

        def hide(found: re.Match[str]) -> str:
            texts.append(found.group())
            return f"{_OPEN}{len(texts) - 1}{_CLOSE}"

        if self._control is not None:
            messages = [{**message, "content": self._control.sub(hide, message["content"])} for message in messages]
        prompt = self._render(messages)
        begins = not (self._begin and prompt.startswith(self._begin))
        tokens: list[int] = []
        for number, part in enumerate(_MARK.split(prompt)):
            if number % 2:
                tokens += self._model.tokenize(texts[int(part)], begin=False, special=False)
            elif part or not number:
                tokens += self._model.tokenize(part, begin=begins and not number, special=True)
        return tokens

    def _render(self, messages: list[Message]) -> str:
        if self._compiled is None:
            try:
                self._compiled = formatter(self._template, self._begin, self._end)
            except Exception as error:  # whatever Jinja2 thinks of a stranger's template
                raise ConfigError(f"the model's chat template cannot be read: {error}") from error
        attempts = (messages, _joined(messages), _joined(_without_system(messages)))
        problem: Exception | None = None
        for attempt in attempts:
            try:
                return self._compiled(attempt, enable_thinking=False)
            except Exception as error:  # templates raise what they like
                problem = problem or error
        raise ConfigError(f"the model's chat template refuses these messages: {problem}") from problem


def _spelling(model: Model, token: int) -> str:
    return model.text(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


def _control_tokens(model: Model, survey: Survey) -> re.Pattern[str] | None:
    spellings = {
        model.text(token, special=True).decode("utf-8", "replace") for token in np.flatnonzero(survey.special).tolist()
    }
    spellings.discard("")
    if not spellings:
        return None
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, longest_first), f"[{_OPEN}{_CLOSE}]"]))


def _as_text(message: Message, number: int) -> Message:
    """The message with its content as one text. ``ConfigError`` for pictures and what is no message."""
    content = message.get("content")
    if not isinstance(message.get("role"), str):
        raise ConfigError(f"message {number + 1} has no role")
    if content is None:
        content = ""
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise ConfigError(f"message {number + 1}: this model reads text only")
            parts.append(str(part.get("text", "")))
        content = "".join(parts)
    if not isinstance(content, str):
        raise ConfigError(f"message {number + 1}: content must be text")
    return {**message, "content": content}


def _another(message: Message) -> Message:
    """The same message saying something else from its first character on."""
    return {**message, "content": "0" if not message["content"].lstrip().startswith("0") else "1"}


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
