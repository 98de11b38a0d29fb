"""How a question reaches a model: through the chat template, or through the prompt template that
the model was tuned with."""

import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from studio.data import Message
from studio.data.prompts import render, variables
from studio.engine.encode import edges
from studio.engine.render import Renderer
from studio.spec import DataSection

Prompter = Callable[[Sequence[Message]], str]
# Where a question stands in the layouts that people use, the likeliest first.
_QUESTIONS = ("instruction", "question", "prompt", "input", "query", "text")


def prompter(tokenizer: PreTrainedTokenizerBase, data: DataSection) -> Prompter:
    """From a conversation to the text after which the model answers."""
    if not data.prompt_template and tokenizer.chat_template:
        renderer = Renderer(tokenizer)
        return lambda messages: renderer.text(list(messages), prompt=True)
    bos = edges(tokenizer)[0]

    def begun(text: str) -> str:
        return text if text.startswith(bos) else bos + text

    if not data.prompt_template:
        # A model of plain text: it goes on with what it is given.
        return lambda messages: begun(str(messages[-1]["content"]))
    template = data.prompt_template
    names = variables(template, None)
    asked = next((n for n in _QUESTIONS if n in names), None) or _first(template, names)

    def raw(messages: Sequence[Message]) -> str:
        """A raw prompt has one question: the last. Every other column is empty."""
        columns = dict.fromkeys(names, "") | {asked: str(messages[-1]["content"])}
        return begun(render(template, columns))

    return raw


def _first(template: str, names: set[str]) -> str:
    places = {n: m.start() for n in names if (m := re.search(rf"\b{re.escape(n)}\b", template))}
    return min(places, key=lambda n: places[n]) if places else "question"
