"""What a model is, told from its files without loading it."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE, EMBEDDED
from studio.plan.memory import weight_bytes
from studio.plan.model import folder_of, is_hub_id, summarize
from studio.plan.trained import trainable
from studio.settings import Settings
from studio.spec import parse
from tests.unit.libraries import CASES

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 8,
    "vocab_size": 50, "max_position_embeddings": 64,
}  # fmt: skip
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [50, 8], "data_offsets": [0, 800]},
    "model.layers.0.self_attn.q_proj.weight": {"dtype": "BF16", "shape": [8, 8]},
    "model.layers.0.input_layernorm.weight": {"dtype": "BF16", "shape": [8]},
}


def safetensors(header: Any) -> bytes:
    """A safetensors file with this header and no weights."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def model(settings: Settings, files: dict[str, Any]) -> str:
    """A folder of the workspace with these files; objects become JSON."""
    folder = settings.workspace / "mine"
    folder.mkdir()
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(raw)
    return "mine"


def test_a_folder_is_summed_up_from_its_headers(settings: Settings) -> None:
    name = model(settings, {"config.json": CONFIG, "model.safetensors": safetensors(HEADER)})
    found = summarize(name, settings)
    assert found.ready and found.parameters == 50 * 8 + 8 * 8 + 8
    assert (found.layers, found.hidden_size, found.vocab_size, found.context) == (2, 8, 50, 64)
    assert found.architecture == "Llama" and "not made for chat" in found.template
    assert [s.name for s in found.targets("all-linear")] == [
        "model.layers.0.self_attn.q_proj.weight"
    ]
    assert found.targets(["v_proj"]) == ()


def test_weights_in_several_files_are_added_up(settings: Settings) -> None:
    half = safetensors({"a": {"shape": [3, 4]}})
    name = model(settings, {"config.json": CONFIG, "a.safetensors": half, "b.safetensors": half})
    assert summarize(name, settings).parameters == 24


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": b"{{ '<|im_start|>' }}"}, "ChatML"),
        ({"tokenizer_config.json": {"chat_template": "<|start_header_id|>"}}, "Llama 3"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "a", "template": "[INST]"}]}},
            "Mistral",
        ),
        ({"tokenizer_config.json": {"chat_template": "{{ x }}"}}, "its own chat template"),
        ({"tokenizer_config.json": {}}, "none: this model was not made for chat"),
    ],
)
def test_the_chat_template_is_named(
    settings: Settings, files: dict[str, Any], template: str
) -> None:
    files = {"config.json": CONFIG, "model.safetensors": safetensors(HEADER), **files}
    assert summarize(model(settings, files), settings).template == template


def test_a_config_that_says_little_is_taken_as_it_is(settings: Settings) -> None:
    config = {"architectures": None, "num_hidden_layers": None, "hidden_size": "wide"}
    name = model(settings, {"config.json": config, "model.safetensors": safetensors(HEADER)})
    found = summarize(name, settings)
    assert (found.architecture, found.layers, found.hidden_size) == ("unknown", 0, 0)


GOOD = safetensors(HEADER)
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("no config", {"model.safetensors": GOOD}, "no config.json"),
    (
        "config is no JSON",
        {"config.json": b"{", "model.safetensors": GOOD},
        "config.json is not JSON",
    ),
    ("config is empty", {"config.json": b"", "model.safetensors": GOOD}, "config.json is not JSON"),
    ("config is a list", {"config.json": [], "model.safetensors": GOOD}, "config.json holds no"),
    ("config is no text", {"config.json": b"\xff", "model.safetensors": GOOD}, "can't be read"),
    ("weights are empty", {"config.json": CONFIG, "model.safetensors": b""}, "model.safetensors"),
    ("weights are noise", {"config.json": CONFIG, "a.safetensors": b"\xff" * 99}, "a.safetensors"),
    (
        "a header as large as the disk",
        {"config.json": CONFIG, "a.safetensors": (2**40).to_bytes(8, "little")},
        "a.safetensors",
    ),
    ("header is cut", {"config.json": CONFIG, "a.safetensors": GOOD[:40]}, "a.safetensors"),
    (
        "header is no JSON",
        {"config.json": CONFIG, "a.safetensors": safetensors(b"abcd")},
        "not JSON",
    ),
    ("header is a list", {"config.json": CONFIG, "a.safetensors": safetensors([])}, "holds no"),
    ("no shape", {"config.json": CONFIG, "a.safetensors": safetensors({"w": {}})}, "no shape"),
    ("no entry", {"config.json": CONFIG, "a.safetensors": safetensors({"w": 1})}, "no shape"),
    (
        "shape of text",
        {"config.json": CONFIG, "a.safetensors": safetensors({"w": {"shape": "88"}})},
        "no shape",
    ),
    (
        "pickle only",
        {"config.json": CONFIG, "pytorch_model.bin": b"\x80"},
        "no weights in safetensors",
    ),
    ("config only", {"config.json": CONFIG}, "no weights in safetensors"),
    (
        "template is no JSON",
        {"config.json": CONFIG, "a.safetensors": GOOD, "tokenizer_config.json": b"{"},
        "tokenizer_config.json is not JSON",
    ),
]


@pytest.mark.parametrize(("files", "words"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_folder_that_cannot_be_understood_is_told_in_words(
    settings: Settings, files: dict[str, Any], words: str
) -> None:
    name = model(settings, files)
    with pytest.raises(StudioError, match="mine") as caught:
        summarize(name, settings)
    assert words in caught.value.message and caught.value.hint


def test_pickled_weights_are_refused_with_the_reason(settings: Settings) -> None:
    name = model(settings, {"config.json": CONFIG, "pytorch_model.bin": b"\x80"})
    with pytest.raises(StudioError) as caught:
        summarize(name, settings)
    assert "run any code" in caught.value.hint and "safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["./nix", "/nix", "~/nix", "-nix", "a/b/c", "a\0b", "x" * 5000])
def test_a_model_that_is_nowhere_is_told(settings: Settings, name: str) -> None:
    with pytest.raises(StudioError) as caught:
        summarize(name, settings)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["owner/name", "gpt2"])
def test_a_hub_id_is_known_by_name_only(settings: Settings, name: str) -> None:
    found = summarize(name, settings)
    assert not found.ready and found.parameters == 0


@pytest.mark.parametrize(
    "name",
    ["gpt2", "owner/name", "a", "A-1/b_2.c", "_a/b", "a" * 96, "a" * 97, "x/" + "a" * 97, "", "/",
     "a/", "/a", "a/b/c", ".a", "a.", "-a/b", "a/b-", "a--b", "a..b", "a/b.git", "a b", "é/b"],
)  # fmt: skip
def test_what_may_be_a_hub_id_is_the_hubs_own_rule(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        assert not is_hub_id(name)
    else:
        assert is_hub_id(name)


def in_cache(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any]) -> None:
    """Puts the files into a Hub cache of our own, as revision main of owner/name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    repo = root / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (repo / "snapshots" / "abc" / name).write_bytes(raw)


def test_a_hub_model_that_was_fetched_is_summed_up_from_the_cache(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(
        tmp_path / "hub",
        monkeypatch,
        {"config.json": CONFIG, "model.safetensors": safetensors(HEADER)},
    )
    for revision in (None, "main", "abc"):
        found = summarize("owner/name", settings, revision)
        assert found.ready and found.parameters == 50 * 8 + 8 * 8 + 8
    assert not summarize("owner/name", settings, "v2").ready


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": CONFIG},
        {"model.safetensors": safetensors(HEADER)},
        {
            "config.json": CONFIG,
            "a.safetensors": safetensors(HEADER),
            "model.safetensors.index.json": {
                "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}
            },
        },
        {
            "config.json": CONFIG,
            "a.safetensors": safetensors(HEADER),
            "model.safetensors.index.json": [],
        },
    ],
    ids=["no weights", "no config", "one part of two", "a broken index"],
)
def test_half_a_model_in_the_cache_is_not_summed_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any]
) -> None:
    in_cache(tmp_path / "hub", monkeypatch, files)
    found = summarize("owner/name", settings)
    assert not found.ready and found.parameters == 0


def test_the_embedded_model_is_described_before_it_is_there(settings: Settings) -> None:
    found = summarize(EMBEDDED, settings)
    assert folder_of(EMBEDDED, settings) is None
    assert not found.ready and found.parameters == CATALOGUE[EMBEDDED].parameters
    assert found.licence and found.layers and found.context


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2"])
def test_counts_are_those_of_peft_and_transformers(
    settings: Settings, libraries: dict[str, Any], name: str
) -> None:
    summary = summarize(str(Path(libraries["folder"]) / name), settings)
    real = libraries["counts"][name]
    assert summary.parameters == real.pop("parameters")
    ours = {case: trainable(parse(options), summary) for case, options in CASES.items()}
    assert ours == real and all(real.values())


def test_quantized_weights_take_less_and_unquantized_what_their_dtype_says(
    settings: Settings, libraries: dict[str, Any]
) -> None:
    summary = summarize(str(Path(libraries["folder"]) / "llama"), settings)
    taken = {kind: weight_bytes(summary, kind, True, 2) for kind in ("none", "int8", "nf4", "fp4")}
    assert taken["none"] == 2 * summary.parameters
    assert taken["nf4"] == taken["fp4"] < taken["int8"] < taken["none"]
    assert taken["nf4"] < weight_bytes(summary, "nf4", False, 2) < taken["int8"]
    assert weight_bytes(summary, "none", True, 4) == 2 * taken["none"]
