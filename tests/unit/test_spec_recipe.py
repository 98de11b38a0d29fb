"""Recipes: only what differs is written, and everything that is wrong is said at once."""

from pathlib import Path

import pytest
import yaml

from studio.errors import SpecError, StudioError
from studio.spec import DEFAULTS, diff, dump, load, loads, parse, tree, with_overrides

CHANGED = {
    "model": {"name_or_path": "owner/name", "revision": "abc", "quantization": "nf4"},
    "data": {
        "path": "réponses.jsonl",
        "also": [{"path": "mehr.csv", "weight": 2.0}],
        "columns": {"prompt": "frage"},
        "steps": [
            {"do": "take", "rows": 12},
            {"do": "system", "text": "Zeile 1\n行 2: # kein"},
            {"do": "drop", "what": "duplicate"},
        ],
        "accepted": ["cut"],
    },
    "adapter": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.05},
    "train": {"learning_rate": 3e-5, "max_steps": 7, "neftune_noise_alpha": 5.0, "packing": True},
    "eval": {"eval_on_start": False},
    "generate": {"system_prompt": "- not: a list", "temperature": 0.25},
}


def refused(text: str) -> dict[str, str]:
    """The problems of a recipe, by field."""
    with pytest.raises(SpecError) as caught:
        loads(text)
    assert all(str(p) in str(caught.value) for p in caught.value.problems)
    return {p.field: f"{p.message} {p.hint}" for p in caught.value.problems}


def test_a_recipe_holds_only_what_differs_and_comes_back_the_same() -> None:
    spec = parse(CHANGED)
    assert yaml.safe_load(dump(spec)) == CHANGED
    assert loads(dump(spec)) == spec


def test_the_defaults_are_an_empty_recipe() -> None:
    assert diff(DEFAULTS) == {}
    assert yaml.safe_load(dump(DEFAULTS)) == {}
    assert loads(dump(DEFAULTS)) == loads("") == DEFAULTS


def test_a_recipe_keeps_nothing_that_equals_the_default() -> None:
    assert dump(loads("train:\n  seed: 42\n  max_steps: 5\n")) == "train:\n  max_steps: 5\n"


def test_everything_wrong_is_said_at_once_each_at_its_field() -> None:
    found = refused(
        "train:\n  learning_rte: 1\n  seed: -1\n  max_steps: 0\n  optim: adamw\n"
        "adaptor: {r: 4}\nadapter:\n  r: zero\nmodel: 5\ngenerate:\n  top_p: .inf\n"
    )
    assert set(found) == {
        "train.learning_rte", "train.seed", "train.max_steps", "train.optim",
        "adaptor", "adapter.r", "model", "generate.top_p",
    }  # fmt: skip
    assert "Did you mean learning_rate?" in found["train.learning_rte"]
    assert "Did you mean adapter?" in found["adaptor"]
    assert "'zero'" in found["adapter.r"] and "16" in found["adapter.r"]
    assert "adamw_torch" in found["train.optim"]
    assert all(words[-1] in ".?" for words in found.values())


def test_a_name_that_resembles_none_is_answered_with_all_there_are() -> None:
    found = refused("eval:\n  zzz: 1\nqqq: {}\n")
    assert "eval_steps" in found["eval.zzz"]
    assert "generate" in found["qqq"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("1: x", "1"),
        ("on: {a: 1}", "True"),
        ("~: 3", "None"),
        ("train: {1: 2}", "train.1"),
        ("train: {~: 2}", "train.None"),
        ("train: [1]", "train"),
        ("train: {a.b: 1}", "train.a.b"),
        ("adapter: {target_modules: 3}", "adapter.target_modules"),
        ("adapter: {target_modules: {a: 1}}", "adapter.target_modules"),
        ("model: {name_or_path: 2024-01-01}", "model.name_or_path"),
        ("train: {learning_rate: .nan}", "train.learning_rate"),
    ],
)
def test_odd_keys_and_values_are_problems_like_others(text: str, field: str) -> None:
    assert list(refused(text)) == [field]


def test_a_long_wrong_value_is_shown_shortened() -> None:
    assert len(refused(f"train: {{seed: {'x' * 5000}}}")["train.seed"]) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c", "line 1"),
        ("train:\n  seed: 1\n\t- x", "line 3"),
        ("train:\n  seed: [1", "not valid YAML"),
        ("- a", "not a recipe"),
        ("just words", "not a recipe"),
        ("a: 2024-99-99", "not valid YAML"),
        ("[" * 2000, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("? [a, b]\n: 3", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_told_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        loads(text, "mine.yaml")
    assert caught.value.message.startswith("mine.yaml") and caught.value.hint


@pytest.mark.parametrize(
    "text", ["train:\n  seed: 1\ntrain:\n  r: 2\n", "train:\n  seed: 1\n  seed: 2\n"]
)
def test_a_name_that_stands_twice_is_refused_and_not_half_obeyed(text: str) -> None:
    with pytest.raises(StudioError, match=r"twice, again at line 3"):
        loads(text)


def test_a_recipe_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"no recipe .*nix\.yaml"):
        load(tmp_path / "nix.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudioError, match=r"binary\.yaml can't be read"):
        load(binary)
    with pytest.raises(StudioError, match="can't be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("train.learning_rate=2e-5", "train", "learning_rate", 2e-5),
        ("train.max_steps=20", "train", "max_steps", 20),
        (
            "adapter.target_modules=[q_proj, v_proj]",
            "adapter",
            "target_modules",
            ["q_proj", "v_proj"],
        ),
        ("adapter.target_modules=q_proj,v_proj", "adapter", "target_modules", ["q_proj", "v_proj"]),
        ("adapter.modules_to_save=[lm_head]", "adapter", "modules_to_save", ["lm_head"]),
        (
            "adapter.modules_to_save=lm_head, norm",
            "adapter",
            "modules_to_save",
            ["lm_head", "norm"],
        ),
        ("data.accepted=[cut, leaked]", "data", "accepted", ["cut", "leaked"]),
        ("data.accepted=cut,leaked", "data", "accepted", ["cut", "leaked"]),
        ("train.packing=true", "train", "packing", True),
        ("train.packing=yes", "train", "packing", True),
        ("data.prompt_template=null", "data", "prompt_template", None),
        ("generate.system_prompt=", "generate", "system_prompt", ""),
        ("data.path=a=b.jsonl", "data", "path", "a=b.jsonl"),
        ("data.split=train[:10%]", "data", "split", "train[:10%]"),
        (" train.seed =7", "train", "seed", 7),
        ("generate.system_prompt=You: help", "generate", "system_prompt", "You: help"),
        ("generate.system_prompt=Say #1", "generate", "system_prompt", "Say #1"),
        ("generate.system_prompt='It is so'", "generate", "system_prompt", "It is so"),
        ("data.name=@x", "data", "name", "@x"),
        ("data.name=null", "data", "name", None),
        ("data.name=", "data", "name", None),
        ("data.prompt_template=", "data", "prompt_template", None),
        ("model.revision=1234567", "model", "revision", "1234567"),
        ("model.revision=12e4567", "model", "revision", "12e4567"),
    ],
)
def test_an_override_is_read_as_yaml(
    tmp_path: Path, override: str, section: str, name: str, value: object
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "train:\n  learning_rate: 1.0e-3\ndata:\n  prompt_template: x\n", encoding="utf-8"
    )
    spec = load(recipe, [override])
    assert getattr(getattr(spec, section), name) == value
    assert getattr(getattr(with_overrides(DEFAULTS, [override]), section), name) == value


def test_later_overrides_win_and_the_rest_of_the_recipe_stays(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train:\n  learning_rate: 1.0e-3\n  seed: 1\n", encoding="utf-8")
    spec = load(recipe, ["train.seed=2", "train.seed=3"])
    assert diff(spec) == {"train": {"learning_rate": 1e-3, "seed": 3}}
    assert diff(with_overrides(spec, ["train.seed=42"])) == {"train": {"learning_rate": 1e-3}}


def test_wrong_overrides_are_all_told(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load(recipe, ["train.seed", "seed=1", "", ".=1", "train.=2", "train.r=3"])
    assert [p.field for p in caught.value.problems][-1] == "train.r"
    malformed = caught.value.problems[:-1]
    assert len(malformed) == 5
    assert all("section.field=value" in p.message for p in malformed)
    with pytest.raises(SpecError) as caught:
        load(recipe, ["train.sede=1", "model.quantization=nf3", "train.learning_rate="])
    assert [p.field for p in caught.value.problems] == [
        "model.quantization", "train.learning_rate", "train.sede",
    ]  # fmt: skip
    recipe.write_text("train: 5\n", encoding="utf-8")
    with pytest.raises(SpecError, match="not a section"):
        load(recipe, ["train.seed=1"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"test_size": 0.06}, {"validation": "6%"}),
        ({"test_size": 0.0}, {"validation": "0%"}),
        ({"max_rows": 9}, {"steps": [{"do": "take", "rows": 9}]}),
        (
            {"max_rows": 9, "system_prompt": "Be kind.", "path": "a.csv"},
            {
                "path": "a.csv",
                "steps": [{"do": "take", "rows": 9}, {"do": "system", "text": "Be kind."}],
            },
        ),
        ({"max_rows": None, "system_prompt": None}, {}),
    ],
)
def test_a_recipe_of_the_first_version_means_what_it_meant(
    old: dict[str, object], new: dict[str, object]
) -> None:
    assert parse({"data": old}) == parse({"data": new})


def test_a_recipe_of_the_first_version_is_judged_like_others() -> None:
    assert set(refused("data: {test_size: much, max_rows: 0}")) == {"data.steps"}


def test_the_whole_spec_as_a_tree_is_the_spec() -> None:
    spec = parse(CHANGED)
    assert parse(tree(spec)) == spec
    assert set(tree(spec)["data"]) == set(type(spec.data).model_fields)
    assert tree(spec)["data"]["also"] == CHANGED["data"]["also"]


def test_half_a_character_is_none() -> None:
    spec = loads(
        r"""data: {path: "a\ud83d.jsonl"}
generate: {system_prompt: "\ud83c\udf31 \udfff"}"""
    )
    assert (spec.data.path, spec.generate.system_prompt) == ("a\ufffd.jsonl", "🌱 \ufffd")
    spec = with_overrides(spec, [r'data.path="b\udc00.jsonl"'])
    assert loads(dump(spec)).data.path == "b\ufffd.jsonl"
    assert dump(spec).encode()
