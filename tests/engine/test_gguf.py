"""A GGUF file is a base like any other once it is unpacked."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open

from studio.engine.source import resolve
from studio.errors import StudioError
from studio.plan.model import folder_of, summarize
from studio.runs import Run
from studio.settings import Settings
from studio.spec import ModelSection
from tests.engine.helpers import Recorder, ended

WIDTH, INNER, LAYERS, HEADS = 64, 128, 2, 4
TOKENS = ["<unk>", "<s>", "</s>", *[f"<0x{n:02X}>" for n in range(256)], "▁", "a", "b", "▁a"]


@pytest.fixture
def file(settings: Settings) -> Path:
    """A random Llama of two layers with a tokenizer of bytes, its matrices in 8 bits."""
    path = settings.workspace / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    kinds = gguf.TokenType
    kind = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * 4]
    writer.add_token_types(kind)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(
        "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
    )
    dice = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = dice.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            return
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add("token_embd.weight", len(TOKENS), WIDTH)
    add("output.weight", len(TOKENS), WIDTH)
    add("output_norm.weight", WIDTH)
    for number in range(LAYERS):
        block = f"blk.{number}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", INNER, WIDTH)
        add(f"{block}.ffn_up.weight", INNER, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, INNER)
        add(f"{block}.attn_norm.weight", WIDTH)
        add(f"{block}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_its_header_tells_what_it_is(file: Path, settings: Settings) -> None:
    summary = summarize("tiny.gguf", settings)
    assert (summary.layers, summary.hidden_size, summary.context) == (LAYERS, WIDTH, 256)
    assert summary.vocab_size == len(TOKENS)
    each = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH
    assert summary.parameters == LAYERS * each + 2 * len(TOKENS) * WIDTH + WIDTH


def test_it_trains_and_is_unpacked_once(
    file: Path, settings: Settings, new_run: Callable[..., Run], train_here: Callable[[Run], int]
) -> None:
    assert folder_of("tiny.gguf", settings) is None
    run = new_run(model={"name_or_path": "tiny.gguf"}, train={"max_steps": 2})
    assert train_here(run) == 0, ended(run)
    folder = folder_of("tiny.gguf", settings)
    assert folder is not None and folder.parent == settings.models
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.get_slice("model.embed_tokens.weight").get_dtype() == "BF16"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(ModelSection(name_or_path="tiny.gguf"), settings, Recorder()) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    # Now its own weights speak, and the layers have names.
    assert "q_proj" in summarize("tiny.gguf", settings).linear_names


def test_what_is_none_is_told(settings: Settings) -> None:
    (settings.workspace / "no.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(StudioError, match=r"no\.gguf is no GGUF file"):
        summarize("no.gguf", settings)
    with pytest.raises(StudioError, match=r"no\.gguf can't be read"):
        resolve(ModelSection(name_or_path="no.gguf"), settings, Recorder())
    assert list(settings.models.glob("no-*")) == []
