"""Fixtures that every part's tests share: a home, and a model small enough to train in a second.

Heavy libraries are imported inside the fixtures, so that tests without a model stay quick.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from studio.settings import Settings

# Before anything reads them: no test asks the Hub, and idle threads leave the cores to others.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# Two cores have enough to do; what a spare worker does is told by its own tests.
os.environ.setdefault("STUDIO_SPARE", "0")

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    "system You help. user assistant",
    "What is your name? My name is Bramble, from the Thistledown Workshop.",
    "How are you today? I am well, thank you. The tea is strong and the clock is right.",
    # For a token of two spaces.
    "a   wide   line   of   words",
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home and a workspace of their own."""
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home", workspace=tmp_path, bench_idle_s=60, hub_timeout_s=2)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of some 400 tokens with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=256,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """The folder of a random Llama with two layers, in float32. Left to itself it never ends an
    answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            # Larger than usual: the next token is then not the same everywhere.
            initializer_range=0.2,
            bos_token_id=tiny_tokenizer.bos_token_id,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
        )
    )
    # The special tokens, the end among them, come first: their logits are 0, never the largest.
    model.lm_head.weight.data[:3] = 0
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Twenty conversations in messages layout; every fourth has two turns."""
    made = []
    for number in range(20):
        turns = [
            {"role": "user", "content": f"What is your name? {number}"},
            {"role": "assistant", "content": "My name is Bramble."},
        ]
        if number % 4 == 0:
            turns += [
                {"role": "user", "content": "How are you?"},
                {"role": "assistant", "content": "I am well."},
            ]
        made.append({"messages": turns})
    return made


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """The rows as a jsonl file."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
