"""Answers: what the settings do, how text is streamed, and that each side is itself."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from studio.engine.chat import Chat
from studio.engine.generate import Speaker, Stream, Voice, generation_config, stop_ids
from studio.engine.report import Stopped
from studio.engine.result import save_adapter
from studio.errors import StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import GenerateSection, RunSpec
from tests.engine.helpers import Recorder

HI = [{"role": "user", "content": "What is your name? 3"}]
LONGER = [*HI, {"role": "assistant", "content": "Bramble."}, {"role": "user", "content": "And?"}]


@pytest.fixture(scope="module")
def chat(session_settings: Settings) -> Iterator[Chat]:
    """One chat for the module, as the bench has one."""
    made = Chat(session_settings)
    yield made
    made.release()


def answer(
    chat: Chat, run: Run | None, sides: Any, recorder: Recorder | None = None, **fields: Any
) -> Any:
    section = GenerateSection(**{"max_new_tokens": 12, **fields})
    spec = (run.spec() if run else RunSpec()).model_copy(update={"generate": section})
    return chat.answer(spec, run, sides, recorder or Recorder())


def plain(folder: Path, messages: Any, **arguments: Any) -> str:
    """What transformers itself writes, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**batch, max_new_tokens=12, do_sample=False, **arguments)
    return tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def test_side_by_side_is_what_each_says_alone(chat: Chat, trained: Run) -> None:
    both = answer(chat, trained, {"base": HI, "tuned": LONGER})
    alone = {
        side: answer(chat, trained, {side: messages}).text[side]
        for side, messages in {"base": HI, "tuned": LONGER}.items()
    }
    assert both.text == alone
    assert answer(chat, trained, {"base": LONGER, "tuned": LONGER}).text["tuned"] == alone["tuned"]


def test_the_base_is_the_base_and_the_tuned_one_is_not(
    chat: Chat, trained: Run, tiny_model: Path
) -> None:
    both = answer(chat, trained, {"base": HI, "tuned": HI})
    assert both.text["base"] == plain(tiny_model, HI)
    assert both.text["tuned"] != both.text["base"]
    assert chat.loaded == f"{tiny_model} with the adapter of {trained.id}"


def test_merged_says_what_tuned_says(chat: Chat, trained: Run, merged: Path) -> None:
    tuned = answer(chat, trained, {"tuned": HI}).text["tuned"]
    assert answer(chat, trained, {"merged": HI}).text["merged"] == tuned
    assert plain(merged, HI) == tuned


@pytest.mark.parametrize(
    "fields",
    [{"repetition_penalty": 1.3}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": -5}],
)
def test_what_can_not_share_a_batch_is_written_in_turn(
    chat: Chat, trained: Run, merged: Path, tiny_model: Path, fields: dict[str, Any]
) -> None:
    both = answer(chat, trained, {"base": HI, "tuned": LONGER}, **fields)
    assert both.text["base"] == plain(tiny_model, HI, **fields)
    assert both.text["tuned"] == plain(merged, LONGER, **fields)


def test_the_stream_adds_up_to_the_text(chat: Chat, trained: Run, recorder: Recorder) -> None:
    both = answer(chat, trained, {"base": HI, "tuned": LONGER}, recorder, max_new_tokens=40)
    assert len(recorder.deltas) > 5
    for side in ("base", "tuned"):
        assert recorder.said(side) == both.text[side]
        assert 0 < both.tokens[side] <= 40


def test_beams_come_whole(chat: Chat, trained: Run, recorder: Recorder) -> None:
    both = answer(chat, trained, {"base": HI}, recorder, num_beams=2)
    assert recorder.deltas == [{"base": both.text["base"]}]


def test_a_client_that_leaves_ends_the_answer(chat: Chat, trained: Run) -> None:
    recorder = Recorder()
    recorder.stop_after_deltas = 3
    with pytest.raises(Stopped):
        answer(chat, trained, {"base": HI, "tuned": HI}, recorder, max_new_tokens=200)
    assert len(recorder.deltas) == 3
    # The model is as good as before: no hooks were left in it.
    again = answer(chat, trained, {"base": HI, "tuned": HI})
    assert again.text["base"] == answer(chat, trained, {"base": HI}).text["base"]


def test_the_seed_decides_what_is_drawn(chat: Chat, trained: Run) -> None:
    def drawn(seed: int) -> str:
        hot = {"do_sample": True, "temperature": 2.0, "top_p": 1.0, "top_k": 0}
        return str(answer(chat, trained, {"tuned": HI}, seed=seed, **hot).text["tuned"])

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_system_prompt_is_read(chat: Chat, trained: Run, tiny_model: Path) -> None:
    system = {"role": "system", "content": "You are a clock in a workshop."}
    said = answer(chat, trained, {"base": HI}, system_prompt=system["content"]).text["base"]
    assert said == plain(tiny_model, [system, *HI]) != plain(tiny_model, HI)


def test_without_a_run_only_the_base_answers(
    chat: Chat, tiny_model: Path, recorder: Recorder, trained: Run
) -> None:
    spec = RunSpec(model=trained.spec().model, generate=GenerateSection(max_new_tokens=12))
    assert chat.answer(spec, None, {"base": HI}, recorder).text["base"] == plain(tiny_model, HI)
    with pytest.raises(StudioError, match="no tuned model"):
        chat.answer(spec, None, {"tuned": HI}, recorder)
    with pytest.raises(StudioError, match="no merged model"):
        chat.answer(spec, None, {"merged": HI}, recorder)


def test_the_models_own_ideas_of_generation_stay_out(
    session_settings: Settings, trained: Run, tiny_model: Path, tmp_path: Path
) -> None:
    """And a model whose files change under it is loaded again."""
    opinionated = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    own = {"repetition_penalty": 1.9, "no_repeat_ngram_size": 1, "do_sample": True, "top_k": 3}
    (opinionated / "generation_config.json").write_text(json.dumps(own))
    section = trained.spec().model.model_copy(update={"name_or_path": str(opinionated)})
    spec = RunSpec(model=section, generate=GenerateSection(max_new_tokens=12))
    chat = Chat(session_settings)
    said = chat.answer(spec, None, {"base": HI}, Recorder()).text["base"]
    assert said == plain(tiny_model, HI)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.embed_tokens.weight.data.mul_(-1)
    model.save_pretrained(opinionated)
    assert chat.answer(spec, None, {"base": HI}, Recorder()).text["base"] != said


@pytest.mark.parametrize(
    "sides", [{}, {"teacher": HI}, {"base": HI, "merged": HI}, {"base": []}, {"base": LONGER[:2]}]
)
def test_questions_that_make_no_sense(chat: Chat, trained: Run, sides: Any) -> None:
    with pytest.raises(StudioError):
        answer(chat, trained, sides)


def test_a_conversation_that_is_too_long(chat: Chat, trained: Run) -> None:
    with pytest.raises(StudioError, match="holds 8192"):
        answer(chat, trained, {"base": [{"role": "user", "content": "x" * 9000}]})


def test_an_adapter_that_changes_biases_leaves_the_base_alone(
    session_settings: Settings, trained: Run, tiny_model: Path, tmp_path: Path
) -> None:
    """peft's disable_adapter does not give biases back, so the base answers before the adapter
    comes in, and is loaded anew after it."""
    from peft import LoraConfig, get_peft_model

    biased = tmp_path / "biased"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attention_bias=True)
    model.save_pretrained(biased)
    tokenizer.save_pretrained(biased)
    tuned = get_peft_model(model, LoraConfig(bias="all", target_modules=["q_proj"]))
    for name, parameter in tuned.named_parameters():
        if name.endswith("bias"):
            parameter.data.uniform_(-3, 3)
    spec = trained.spec()
    section = spec.model.model_copy(update={"name_or_path": str(biased)})
    spec = spec.model_copy(update={"model": section})
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "spec.yaml").write_text(f"model:\n  name_or_path: {biased}\n", encoding="utf-8")
    save_adapter(tuned, tokenizer, spec, run.adapter)
    chat = Chat(session_settings)
    expected = plain(biased, HI)
    for _ in range(2):
        both = answer(chat, run, {"base": HI, "tuned": HI})
        assert both.text["base"] == expected != both.text["tuned"]
    assert answer(chat, run, {"base": HI}).text["base"] == expected


FIELDS: dict[str, Any] = {
    "max_new_tokens": 3,
    "temperature": 0.3,
    "top_p": 0.5,
    "top_k": 7,
    "repetition_penalty": 1.5,
    "num_beams": 4,
    "length_penalty": 2.0,
    "early_stopping": True,
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_arrives(name: str, tiny_tokenizer: Any) -> None:
    speaker = Speaker(None, tiny_tokenizer, str, [2])
    assert name in GenerationConfig().to_dict()
    section = GenerateSection(**{"do_sample": True, "num_beams": 2, name: FIELDS[name]})
    assert getattr(generation_config(section, speaker), name) == FIELDS[name]


def test_no_setting_is_forgotten() -> None:
    elsewhere = {"system_prompt", "seed", "do_sample"}
    assert set(FIELDS) | elsewhere == set(GenerateSection.model_fields)


def test_greedy_says_nothing_of_sampling(tiny_tokenizer: Any) -> None:
    config = generation_config(GenerateSection(), Speaker(None, tiny_tokenizer, str, [2]))
    assert config.do_sample is False
    assert (config.temperature, config.top_p, config.top_k) == (None, None, None)


def test_the_end_of_a_turn_ends_an_answer(tiny_tokenizer: Any) -> None:
    """Also where neither the model nor the tokenizer names that token as its end."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=[1]))
    assert stop_ids(tokenizer, model) == [0, 1, 2]


def stream(tokenizer: Any, tokens: list[list[int]], ends: list[int]) -> tuple[list[Any], Stream]:
    said: list[Any] = []
    names = [f"side{number}" for number in range(len(tokens))]
    voice = Voice(say=lambda new: said.append(dict(new)), stopped=lambda: False)
    made = Stream(tokenizer, names, ends, voice)
    made.put(torch.zeros(len(tokens), 5, dtype=torch.long))
    for column in zip(*tokens, strict=True):
        made.put(torch.tensor(column))
    made.end()
    return said, made


def test_half_a_character_is_held_back(tiny_tokenizer: Any) -> None:
    text = "tea 😀 日本 é!"
    tokens = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    said, made = stream(tiny_tokenizer, [tokens], [2])
    assert "".join(delta["side0"] for delta in said) == text == made.written()["side0"].text
    assert not any("\ufffd" in delta["side0"] for delta in said)
    # What stays half to the end is shown as what it is.
    _, made = stream(tiny_tokenizer, [tokens[: len(tokens) - 5]], [2])
    assert made.written()["side0"].text.startswith("tea 😀")


def test_a_side_that_has_ended_says_no_more(tiny_tokenizer: Any) -> None:
    tea = tiny_tokenizer("tea!", add_special_tokens=False)["input_ids"]
    long = tiny_tokenizer("tea tea tea", add_special_tokens=False)["input_ids"]
    padded = [*tea, *[2] * (len(long) - len(tea))]
    said, made = stream(tiny_tokenizer, [padded, long], [2])
    written = made.written()
    assert (written["side0"].text, written["side0"].tokens) == ("tea!", len(tea))
    assert (written["side1"].text, written["side1"].tokens) == ("tea tea tea", len(long))
    assert "side0" not in said[-1]


def test_special_tokens_are_not_said(tiny_tokenizer: Any) -> None:
    _, made = stream(tiny_tokenizer, [[1, *tiny_tokenizer("a")["input_ids"], 0]], [2])
    assert made.written()["side0"].text == "a"
