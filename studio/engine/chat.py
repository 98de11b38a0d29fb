"""The models of the chat: one in memory at a time, base and tuned from one copy of the weights."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig

from studio.data import Message
from studio.engine.adapters import first_task
from studio.engine.channel import Channel
from studio.engine.generate import Speaker, Voice, Written, stop_ids, write
from studio.engine.load import fit_embeddings, free_memory, hardware, load_model
from studio.engine.prompting import prompter
from studio.engine.source import resolve
from studio.engine.tokenizer import load_tokenizer
from studio.errors import StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import DataSection, GenerateSection, ModelSection, RunSpec

Sides = Mapping[str, Sequence[Message]]


@dataclass(frozen=True)
class Answer:
    """Text and number of tokens by side, and how long it took from the first token's work on."""

    text: dict[str, str]
    tokens: dict[str, int]
    seconds: float


@dataclass(kw_only=True)
class _Held(Speaker):
    """What is in memory. `age` is that of the weights in `folder`; `adapter` is the folder of the
    adapter and its age, where one is in; `removable`, whether turning it off gives the base back.
    """

    section: ModelSection
    data: DataSection
    folder: Path
    age: int
    adapter: tuple[Path, int] | None = None
    removable: bool = True


class Chat:
    """Answers conversations. Not for several threads at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: _Held | None = None

    @property
    def loaded(self) -> str | None:
        """What is in memory, in words."""
        if self._held is None:
            return None
        adapter = self._held.adapter
        return self._held.section.name_or_path + (
            f" with the adapter of {adapter[0].parent.name}" if adapter else ""
        )

    def answer(self, spec: RunSpec, run: Run | None, sides: Sides, channel: Channel) -> Answer:
        """An answer for each of the sides, which are base, tuned, both, or merged alone.

        Raises StudioError in words and Stopped where nobody listens any more.
        """
        conversations = {
            side: _messages(side, messages, spec.generate)
            for side, messages in _known(sides).items()
        }
        try:
            written, seconds = self._written(spec, run, conversations, channel)
        except StudioError:
            raise
        except Exception:
            # peft leaves its hooks in a model whose generation broke off, and one that ran out of
            # memory is best given up.
            self.release()
            raise
        return Answer(
            {s: w.text for s, w in written.items()},
            {s: w.tokens for s, w in written.items()},
            seconds,
        )

    def release(self) -> None:
        """Gives the model's memory back."""
        self._held = None
        free_memory()

    def _written(
        self, spec: RunSpec, run: Run | None, sides: Sides, channel: Channel
    ) -> tuple[dict[str, Written], float]:
        used = run.spec() if run else spec
        voice = Voice(say=lambda new: channel.send(delta=dict(new)), stopped=channel.stopped)
        if "merged" in sides:
            held = self._hold_merged(used, run, channel)
            return _timed(lambda: write(held, sides, spec.generate, voice), channel)
        adapter = _adapter_of(run) if "tuned" in sides else None
        if adapter is None:
            held = self._hold(used, None, channel)
            return _timed(lambda: self._in_turn(held, sides, spec.generate, voice), channel)
        if _is_whole(adapter) or ("base" in sides and not _removable(adapter)):
            return self._one_by_one(used, adapter, sides, spec.generate, voice, channel)
        held = self._hold(used, adapter, channel)
        together = len(sides) > 1 and _batchable(adapter, spec.generate)
        work = self._together if together else self._in_turn
        return _timed(lambda: work(held, sides, spec.generate, voice), channel)

    def _together(
        self, held: _Held, sides: Sides, section: GenerateSection, voice: Voice
    ) -> dict[str, Written]:
        """Both sides in one batch, at the cost of one."""
        names = ["__base__" if side == "base" else "default" for side in sides]
        return write(held, sides, section, voice, adapter_names=names)

    def _in_turn(
        self, held: _Held, sides: Sides, section: GenerateSection, voice: Voice
    ) -> dict[str, Written]:
        written: dict[str, Written] = {}
        for side, messages in sides.items():
            without = side == "base" and held.adapter is not None
            context: AbstractContextManager[Any] = (
                held.model.disable_adapter() if without else nullcontext()
            )
            with context:
                written |= write(held, {side: messages}, section, voice)
        return written

    def _one_by_one(
        self,
        spec: RunSpec,
        adapter: Path,
        sides: Sides,
        generate: GenerateSection,
        voice: Voice,
        channel: Channel,
    ) -> tuple[dict[str, Written], float]:
        """For an adapter that changes the base's own biases, and for a model all of whose weights
        were trained: each answers from a copy of its own, and one is in memory at a time."""
        written: dict[str, Written] = {}
        total = 0.0
        for side, messages in sides.items():
            tuned = adapter if side == "tuned" else None
            whole = tuned is not None and _is_whole(tuned)
            held = (
                self._hold_plain(spec, adapter, channel)
                if whole
                else self._hold(spec, tuned, channel)
            )
            work = partial(self._in_turn, held, {side: messages}, generate, voice)
            said, seconds = _timed(work, channel)
            written |= said
            total += seconds
        return written, total

    def _hold(self, spec: RunSpec, adapter: Path | None, channel: Channel) -> _Held:
        """The base with the adapter in it; where none is wanted, perhaps with one that can be
        turned off."""
        key = (adapter, (adapter / "adapter_config.json").stat().st_mtime_ns) if adapter else None
        data = _template_of(spec.data)
        held = self._current(spec.model, data)
        if held is not None and (held.adapter == key or (adapter is None and held.removable)):
            return held
        if held is None or held.adapter is not None:
            channel.stage("finding the model")
            folder = resolve(spec.model, self._settings, channel)
            held = self._load(spec.model, data, folder, channel)
        if adapter is not None:
            channel.stage("loading the adapter")
            held.model = PeftModel.from_pretrained(held.model, str(adapter)).eval()
            if _config(adapter)["peft_type"] == "MULTITASK_PROMPT_TUNING":
                first_task(held.model)
            held.adapter, held.removable = key, _removable(adapter)
        return held

    def _hold_merged(self, spec: RunSpec, run: Run | None, channel: Channel) -> _Held:
        """The merged model by itself: no base beside it, no adapter in it."""
        folder = run.export / "merged" if run else None
        if folder is None or not (folder / "config.json").is_file():
            raise StudioError(
                "There is no merged model of this run yet.", "Export it as merged weights first."
            )
        return self._hold_plain(spec, folder, channel)

    def _hold_plain(self, spec: RunSpec, folder: Path, channel: Channel) -> _Held:
        """A model that a run has made, by itself."""
        plain = spec.model.model_copy(
            update={
                "name_or_path": str(folder),
                "quantization": "none",
                "revision": None,
                "use_safetensors": True,
            }
        )
        # Its tokenizer has the chat template already.
        data = DataSection(prompt_template=spec.data.prompt_template)
        return self._current(plain, data) or self._load(plain, data, folder, channel)

    def _current(self, section: ModelSection, data: DataSection) -> _Held | None:
        """What is in memory, where that is this model and its files are still the same."""
        held = self._held
        same = held is not None and (held.section, held.data) == (section, data)
        return held if held is not None and same and held.age == _age(held.folder) else None

    def _load(
        self, section: ModelSection, data: DataSection, folder: Path, channel: Channel
    ) -> _Held:
        # First out, then in: two models at once may be more than the machine holds.
        self.release()
        age = _age(folder)
        tokenizer = load_tokenizer(folder, data).tokenizer
        model = load_model(section, folder, hardware(section), channel)
        fit_embeddings(model, len(tokenizer))
        ends = stop_ids(tokenizer, model)
        # Emptied, so that nothing but our own settings decides how answers are written.
        model.generation_config = GenerationConfig()
        prompt = prompter(tokenizer, data)
        self._held = _Held(
            model, tokenizer, prompt, ends, section=section, data=data, folder=folder, age=age
        )
        return self._held


def _template_of(data: DataSection) -> DataSection:
    """What of the section decides how a conversation is put to the model."""
    names = ("chat_template", "chat_template_jinja", "add_template_tokens", "prompt_template")
    return DataSection(**{name: getattr(data, name) for name in names})


def _age(folder: Path) -> int:
    """When the folder's weights were last written, in nanoseconds; 0 where there are none."""
    return max((path.stat().st_mtime_ns for path in folder.glob("*.safetensors")), default=0)


def _known(sides: Sides) -> Sides:
    if (
        not sides
        or not set(sides) <= {"base", "tuned", "merged"}
        or ("merged" in sides and len(sides) > 1)
    ):
        raise StudioError(
            f"There is nobody to answer as {', '.join(sides) or 'nobody'}.",
            "Sides are base, tuned, both of them, or merged alone.",
        )
    return sides


def _messages(side: str, messages: Sequence[Message], section: GenerateSection) -> list[Message]:
    """The conversation with the section's system prompt at its head, where there is one."""
    if not messages or messages[-1].get("role") != "user":
        raise StudioError(
            f"The conversation with {side} does not end with a question.", "Write a message first."
        )
    chat = list(messages)
    if section.system_prompt and chat[0].get("role") != "system":
        chat.insert(0, {"role": "system", "content": section.system_prompt})
    return chat


def _adapter_of(run: Run | None) -> Path:
    if run is not None and run.spec().train.trainer == "reward":
        raise StudioError(
            "This run made a model that scores answers; it writes none.",
            "Name it in grpo.reward_model to train with it.",
        )
    if run is None or not run.tuned:
        raise StudioError(
            "There is no tuned model yet.",
            "Choose a run that finished, or was stopped after a step.",
        )
    return run.adapter


def _config(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(
        (adapter / "adapter_config.json").read_text(encoding="utf-8")
    )
    return config


def _is_whole(adapter: Path) -> bool:
    """Whether it is a whole model, all of whose weights were trained."""
    return not (adapter / "adapter_config.json").is_file()


def _removable(adapter: Path) -> bool:
    """Whether the base is itself again once the adapter is turned off: not if it changed biases."""
    return _config(adapter).get("bias", "none") == "none"


def _batchable(adapter: Path, section: GenerateSection) -> bool:
    """Whether base and tuned may share a batch: peft can for plain LoRA alone, and other methods
    give the base's rows the adapter without a word. Beams are laid out otherwise, and a repetition
    penalty would count the padding of the shorter prompt."""
    config = _config(adapter)
    return (
        config["peft_type"] == "LORA"
        and not config.get("use_dora")
        and not config.get("modules_to_save")
        and section.num_beams == 1
        and section.repetition_penalty == 1
    )


def _timed(
    work: Callable[[], dict[str, Written]], channel: Channel
) -> tuple[dict[str, Written], float]:
    channel.stage("writing the answer")
    began = time.monotonic()
    return work(), round(time.monotonic() - began, 3)
