"""Which chat template a tokenizer uses, and what is wrong with it.

The findings about a template, by their id:
- no_template: the model has none, and rows are conversations
- end_of_turn: the last token that is learned of an answer is none at which the model stops, so the
  tuned model would go on and on
- unstable: earlier turns are written another way once more turns follow
- ignores_tools: rows offer tools or call them, and the template writes nothing of that
- ignores_thoughts: answers have thoughts of their own, and the template writes nothing of them
- double_bos: the text begins with the beginning-of-text token twice
- pad_is_eos: padding and end are one token; told, because with other tools that ruins a run
- unchecked: the template refuses the small conversation by which one of these is told
- new_tokens: marks of the template that are no tokens of this model, and so are cut in pieces
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from studio.data import Example, RowError
from studio.data.findings import Finding
from studio.engine.encode import Encoder
from studio.engine.render import NO_TEMPLATE, Renderer
from studio.errors import StudioError
from studio.spec import DataSection

_FOLDER = Path(__file__).with_name("templates")
# What ends a turn, where it is not the tokenizer's own end token.
_ENDS = {
    "chatml": "<|im_end|>",
    "llama-3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi-3": "<|end|>",
}
_MARKS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi-3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "zephyr": ("<|system|>", "<|user|>", "<|assistant|>"),
    "vicuna": (),
}
_MARK = re.compile(r"<\|[\w-]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
_BOS = re.compile(r"\{\{-?\s*bos_token\s*-?\}\}")
_HELLO = [
    {"role": "user", "content": "Hello, who are you?"},
    {"role": "assistant", "content": "A helper."},
    {"role": "user", "content": "And what can you do?"},
    {"role": "assistant", "content": "I can help."},
]
_THOUGHT = "A thought of the studio."
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_of_the_studio",
        "description": "Nothing.",
        "parameters": {"type": "object", "properties": {}},
    },
}


class _Generation(Extension):
    """Lets the parser read {% generation %}."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


# As transformers has them.
_EXTENSIONS = (_Generation, "jinja2.ext.loopcontrols")


def source(section: DataSection) -> str | None:
    """The template's text where the section names one, None for the model's own."""
    if section.chat_template == "model":
        return None
    if section.chat_template == "custom":
        return section.chat_template_jinja
    return (_FOLDER / f"{section.chat_template}.jinja").read_text(encoding="utf-8")


def apply(tokenizer: PreTrainedTokenizerBase, section: DataSection) -> list[str]:
    """Gives the tokenizer the section's template; returns the tokens that were added for it.

    Raises StudioError for a template that is not Jinja.
    """
    own = source(section)
    if own is not None:
        tokenizer.chat_template = own
        try:
            ImmutableSandboxedEnvironment(extensions=_EXTENSIONS).parse(own)
        except (TemplateError, RecursionError) as error:
            line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
            reason = str(error.message if isinstance(error, TemplateError) else error).rstrip(".")
            raise StudioError(
                f"The chat template is no Jinja: {line}{reason}.", "Mend it."
            ) from None
    added = missing_marks(tokenizer, section) if section.add_template_tokens else []
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": added})
    end = _ENDS.get(section.chat_template)
    # Whoever loads the result has to stop where its answers were taught to end.
    if end and _has(tokenizer, end):
        tokenizer.eos_token = end
    return added


def missing_marks(tokenizer: PreTrainedTokenizerBase, section: DataSection) -> list[str]:
    """The template's marks that are no tokens of this tokenizer, in their order."""
    marks = _MARKS.get(section.chat_template)
    if marks is None:
        held = tokenizer.chat_template
        marks = tuple(_MARK.findall(held)) if isinstance(held, str) else ()
    return [mark for mark in dict.fromkeys(marks) if not _has(tokenizer, mark)]


def _has(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether it is a token. One is asked for: the whole vocabulary takes a tenth of a second."""
    return tokenizer.backend_tokenizer.token_to_id(token) is not None


def examine(
    tokenizer: PreTrainedTokenizerBase,
    section: DataSection,
    *,
    tools: bool = False,
    thoughts: bool = False,
) -> list[Finding]:
    """What is wrong with the template that `apply` gave the tokenizer; `tools`: rows use some;
    `thoughts`: rows have thoughts beside their answers.

    Raises StudioError for a template that can't be used at all.
    """
    if section.prompt_template:
        return _endings(tokenizer, section)
    if not tokenizer.chat_template:
        remedy = {"field": "data.chat_template", "value": "chatml"}
        return [Finding("no_template", "stop", 1, NO_TEMPLATE, remedy=remedy)]
    probe = _Probe(tokenizer, section)
    found = probe.tried("whether earlier turns stay as they are", probe.stability)
    if not found or found[0].severity != "stop":
        found += probe.tried("how an answer ends", lambda: _endings(tokenizer, section))
    found += probe.tried("how a text begins", probe.begin)
    if tools:
        found += probe.tried("whether it knows tools", probe.tools)
    if thoughts:
        found += probe.tried("whether it knows thoughts", probe.thoughts)
    found += probe.unchecked()
    missing = missing_marks(tokenizer, section)
    if missing:
        words = (
            f"{', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} no token of this "
            "model: cut in pieces, it is learned more slowly and costs more room."
        )
        add: dict[str, Any] = {"field": "data.add_template_tokens", "value": True}
        found.append(Finding("new_tokens", "warn", len(missing), words, remedy=add))
    return found


class _Probe:
    """Small conversations that the template is tried on. It may refuse them and be right for the
    rows: what could not be checked then is told, and harms nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, section: DataSection) -> None:
        self._tokenizer = tokenizer
        self._section = section
        self._renderer = Renderer(tokenizer)
        self._missed: list[str] = []
        self._why = ""

    def tried(self, what: str, probe: Callable[[], list[Finding]]) -> list[Finding]:
        """What the probe finds, or nothing where the template refuses it."""
        try:
            return probe()
        except RowError as error:
            self._missed.append(what)
            self._why = self._why or error.message
            return []

    def unchecked(self) -> list[Finding]:
        """What could not be checked."""
        if not self._missed:
            return []
        words = f"It could not be checked {', '.join(self._missed)}. {self._why.rstrip('.')}."
        return [Finding("unchecked", "warn", len(self._missed), words)]

    def stability(self) -> list[Finding]:
        """Whether earlier turns are written as they were once more turns follow."""
        whole, first = self._renderer.text(_HELLO), self._renderer.text(_HELLO[:2])
        if whole.startswith(first.rstrip()):
            return []
        words = "The chat template writes earlier turns another way once more turns follow. "
        try:
            self._renderer.answers(_HELLO)
        except StudioError:
            words += "So it can't be told where an answer stands."
            everything = {"field": "data.train_on", "value": "everything"}
            return [Finding("unstable", "stop", 1, words, remedy=everything)]
        words += "What is learned of them is what is shown here, not what the model had written."
        last = {"field": "data.train_on", "value": "last"}
        return [Finding("unstable", "warn", 1, words, remedy=last)]

    def begin(self) -> list[Finding]:
        """Whether the text begins with the beginning-of-text token twice."""
        bos = self._tokenizer.bos_token
        if not bos or not self._renderer.text(_HELLO).startswith(bos + bos):
            return []
        words = f"The chat template begins every text with {bos} twice, which no model has seen."
        return [Finding("double_bos", "warn", 1, words, remedy=_one_bos(self._section))]

    def tools(self) -> list[Finding]:
        """Whether tools are written."""
        if _TOOL["function"]["name"] in self._renderer.text(_HELLO, [_TOOL]):  # type: ignore[index]
            return []
        words = "Rows use tools, and the chat template writes nothing of them."
        remedy = {"field": "data.chat_template", "value": "chatml"}
        return [Finding("ignores_tools", "stop", 1, words, remedy=remedy)]

    def thoughts(self) -> list[Finding]:
        """Whether the thoughts before an answer are written."""
        thinking = [*_HELLO[:-1], _HELLO[-1] | {"reasoning_content": _THOUGHT}]
        if _THOUGHT in self._renderer.text(thinking):
            return []
        words = (
            "Rows have thoughts beside their answers, and the chat template writes none of them."
        )
        return [Finding("ignores_thoughts", "warn", 1, words)]


def _one_bos(section: DataSection) -> dict[str, Any]:
    """Takes the first of the two out of one's own template; there is none in chatml."""
    own = section.chat_template_jinja or ""
    once = _BOS.sub("", own, count=1)
    if section.chat_template == "custom" and once != own:
        return {"field": "data.chat_template_jinja", "value": once}
    return {"field": "data.chat_template", "value": "chatml"}


def _endings(tokenizer: PreTrainedTokenizerBase, section: DataSection) -> list[Finding]:
    found = []
    if section.prompt_template:
        example = Example("completion", prompt="Question", completion="Answer")
    else:
        example = Example("chat", messages=_HELLO)
    # Where all of a conversation is learned it is of no matter how an answer ends.
    free = section.train_on == "everything" and not section.prompt_template
    ends = {tokenizer.eos_token_id, *_stops(tokenizer)}
    if not free and _last_learned(tokenizer, section, example) not in ends:
        words = (
            "The end of an answer is no token at which the model stops: what is tuned would not "
            "know when to end."
        )
        remedy = {"field": "data.chat_template", "value": "chatml"}
        found.append(
            Finding(
                "end_of_turn", "stop", 1, words, remedy=None if section.prompt_template else remedy
            )
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        words = (
            f"Padding and end are one token, {tokenizer.eos_token}. Here that does no harm: the "
            "end of each answer is learned, padding never."
        )
        found.append(Finding("pad_is_eos", "info", 1, words))
    return found


def _last_learned(
    tokenizer: PreTrainedTokenizerBase, section: DataSection, example: Example
) -> int | None:
    """The last token that is learned of the example, or None where none is."""
    learned = Encoder(tokenizer, section.train_on, 10**6).one(example).sequences[0]
    start, end = learned.ranges[-1] if learned.ranges else (0, 0)
    return learned.encoding.ids[end - 1] if end > start else None


def _stops(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that end a turn in one of the families that are known here."""
    names = {*_ENDS.values(), "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<turn|>"}
    found = {tokenizer.backend_tokenizer.token_to_id(name) for name in names}
    return {token for token in found if token is not None}
