"""RunSpec: the whole of a run's settings, and its recipe, the YAML that says only what differs."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from studio.errors import Problem, SpecError, StudioError
from studio.spec.adapter import AdapterSection
from studio.spec.check import check
from studio.spec.data import DataSection
from studio.spec.evaluate import EvalSection
from studio.spec.fast import FastSection
from studio.spec.field import Meta, Section, meta_of, show, whole_text
from studio.spec.generate import GenerateSection
from studio.spec.grpo import GrpoSection
from studio.spec.methods import (
    AdaloraSection,
    Ia3Section,
    LohaSection,
    LokrSection,
    OftSection,
    VeraSection,
)
from studio.spec.model import ModelSection
from studio.spec.prompts import (
    MultitaskPromptTuningSection,
    PrefixTuningSection,
    PromptTuningSection,
    PTuningSection,
)
from studio.spec.train import TrainSection
from studio.spec.trainers import CptSection, DpoSection, KtoSection, OrpoSection, RewardSection
from studio.spec.upgrade import upgrade

Tree = dict[str, dict[str, Any]]


class RunSpec(Section):
    """Everything that decides what a run does."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    adapter: AdapterSection = AdapterSection()
    adalora: AdaloraSection = AdaloraSection()
    ia3: Ia3Section = Ia3Section()
    loha: LohaSection = LohaSection()
    lokr: LokrSection = LokrSection()
    oft: OftSection = OftSection()
    vera: VeraSection = VeraSection()
    prompt_tuning: PromptTuningSection = PromptTuningSection()
    prefix_tuning: PrefixTuningSection = PrefixTuningSection()
    p_tuning: PTuningSection = PTuningSection()
    multitask_prompt_tuning: MultitaskPromptTuningSection = MultitaskPromptTuningSection()
    train: TrainSection = TrainSection()
    fast: FastSection = FastSection()
    cpt: CptSection = CptSection()
    dpo: DpoSection = DpoSection()
    kto: KtoSection = KtoSection()
    orpo: OrpoSection = OrpoSection()
    reward: RewardSection = RewardSection()
    grpo: GrpoSection = GrpoSection()
    eval: EvalSection = EvalSection()
    generate: GenerateSection = GenerateSection()


DEFAULTS = RunSpec()
SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "data": DataSection,
    "adapter": AdapterSection,
    "adalora": AdaloraSection,
    "ia3": Ia3Section,
    "loha": LohaSection,
    "lokr": LokrSection,
    "oft": OftSection,
    "vera": VeraSection,
    "prompt_tuning": PromptTuningSection,
    "prefix_tuning": PrefixTuningSection,
    "p_tuning": PTuningSection,
    "multitask_prompt_tuning": MultitaskPromptTuningSection,
    "train": TrainSection,
    "fast": FastSection,
    "cpt": CptSection,
    "dpo": DpoSection,
    "kto": KtoSection,
    "orpo": OrpoSection,
    "reward": RewardSection,
    "grpo": GrpoSection,
    "eval": EvalSection,
    "generate": GenerateSection,
}


def fields() -> Iterator[tuple[str, str, FieldInfo, Meta]]:
    """Every field as (section, name, pydantic's info, our meta), in the order of the form."""
    for section, cls in SECTIONS.items():
        for name, info in cls.model_fields.items():
            yield section, name, info, meta_of(info)


def used(key: str, tree: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the field `key` has an effect with what the tree says; it may be hidden otherwise.
    What the tree does not say is at its default."""
    section, _, name = key.partition(".")
    cls = SECTIONS[section]
    for other, values in (*cls.used_when, *meta_of(cls.model_fields[name]).when):
        of, _, field = other.partition(".")
        default = getattr(getattr(DEFAULTS, of), field)
        if (tree.get(of) or {}).get(field, default) not in values:
            return False
    return True


def parse(tree: Mapping[str, Any]) -> RunSpec:
    """The spec of `tree` over the defaults. Raises SpecError with every problem at once."""
    # YAML reads a key such as `on` or 1 as no text; as text it is an unknown key like others.
    tree = upgrade({str(s): _named(held) for s, held in tree.items()})
    try:
        spec, problems = RunSpec.model_validate(tree), []
    except ValidationError as error:
        # One a field: a union of types has a finding for each of its members.
        problems = list({p.field: p for p in map(_problem, error.errors())}.values())
        # The pairs are judged too, with what is wrong at its default.
        spec = RunSpec.model_validate(_without(tree, {p.field for p in problems}))
    problems += check(spec)
    if problems:
        raise SpecError(problems)
    return spec


def _named(held: Any) -> Any:
    return {str(name): value for name, value in held.items()} if isinstance(held, Mapping) else held


def _without(tree: Mapping[str, Any], bad: set[str]) -> dict[str, Any]:
    """The tree less the fields and sections named in `bad`."""
    kept = {section: held for section, held in tree.items() if section not in bad}
    return {s: {n: v for n, v in held.items() if f"{s}.{n}" not in bad} for s, held in kept.items()}


def diff(spec: RunSpec, base: RunSpec = DEFAULTS) -> Tree:
    """What `spec` says otherwise than `base`, as {section: {field: value}}."""
    changed: Tree = {}
    for section, name, _info, _meta in fields():
        value = getattr(getattr(spec, section), name)
        if value != getattr(getattr(base, section), name):
            changed.setdefault(section, {})[name] = plain(value)
    return changed


def tree(spec: RunSpec) -> Tree:
    """Every field of the spec, as {section: {field: value}}."""
    whole: Tree = {}
    for section, name, _info, _meta in fields():
        whole.setdefault(section, {})[name] = plain(getattr(getattr(spec, section), name))
    return whole


def plain(value: Any) -> Any:
    """A field's value as YAML and JSON can hold it: of a step or a source only what it says."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Section):
        kind = {"do": value.do} if hasattr(value, "do") else {}
        return kind | value.model_dump(exclude_defaults=True)
    return value


def dump(spec: RunSpec) -> str:
    """The recipe as YAML: only what differs from the defaults."""
    changed = diff(spec)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True) if changed else "{}\n"


def loads(text: str, name: str = "recipe") -> RunSpec:
    """Reads a recipe's YAML. Raises StudioError (not YAML) or SpecError (bad fields)."""
    return parse(load_tree(text, name))


class _Twice(yaml.MarkedYAMLError):
    """A key that stands twice in one mapping; YAML would let the last one win in silence."""


class _Loader(yaml.SafeLoader):
    """SafeLoader, and no key twice, no half a character."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        return whole_text(super().construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Twice(problem=whole_text(key.value), problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# What yaml raises: for text that is no YAML, a date that is none, or brackets without end.
_REFUSED = (yaml.YAMLError, ValueError, RecursionError)


def load_tree(text: str, name: str = "recipe") -> Tree:
    """The YAML's {section: {field: value}}, its keys not judged yet."""
    try:
        tree = yaml.load(text, _Loader)
    except _REFUSED as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        if isinstance(error, _Twice):
            raise StudioError(
                f"{name} says {error.problem} twice, again{where}.", "Keep one of them."
            ) from None
        raise StudioError(
            f"{name} is not valid YAML{where}.",
            "Write `section:` and below it, indented, `field: value`.",
        ) from None
    if tree is None:
        return {}
    if isinstance(tree, dict):
        # A section whose lines are all commented out.
        tree = {key: {} if held is None else held for key, held in tree.items()}
    else:
        raise StudioError(
            f"{name} is not a recipe.", "Write `section:` and below it `field: value`."
        )
    return tree


def load(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """A recipe file with `section.field=value` overrides on top, each value read as YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudioError(
            f"There is no recipe {path}.", "Check the path; the bundled ones are in presets/."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(
            f"{path} can't be read: {error}.", "A recipe is a YAML text file."
        ) from None
    return _overridden(load_tree(text, path.name), overrides)


def with_overrides(spec: RunSpec, overrides: Sequence[str]) -> RunSpec:
    """The spec with `section.field=value` on top. Raises SpecError."""
    return _overridden(diff(spec), overrides)


def with_values(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """The spec with these values, by "section.field". Raises SpecError."""
    changed: dict[str, Any] = diff(spec)
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed.setdefault(section, {})[name] = value
    return parse(changed)


def value_at(spec: RunSpec, key: str) -> Any:
    """The spec's value of "section.field"."""
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)


def _overridden(tree: Tree, overrides: Sequence[str]) -> RunSpec:
    problems = [p for p in (_override(tree, text) for text in overrides) if p]
    try:
        spec = parse(tree)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)
    return spec


def _override(tree: Tree, text: str) -> Problem | None:
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot or not name:
        return Problem(
            key.strip() or "--set",
            "is not section.field=value.",
            "Example: --set train.learning_rate=2e-4",
        )
    held = tree.setdefault(section, {})
    if isinstance(held, dict):
        held[name] = _value(section, name, value.strip())
    # What is no section is told by parse.
    return None


def value_of(key: str, text: str) -> Any:
    """What the text says as a value of "section.field"; `with_values` judges it."""
    section, _, name = key.partition(".")
    return _value(section, name, text)


def _value(section: str, name: str, text: str) -> Any:
    """An override's value: a text field takes what stands there, unless it is quoted or null."""
    info = SECTIONS[section].model_fields.get(name) if section in SECTIONS else None
    # Of a list's items nothing is wanted: it is written as YAML has it.
    parts = get_args(info.annotation) if info and get_origin(info.annotation) is not list else ()
    wanted = {info.annotation, *parts} if info else set()
    if not text:
        return None if NoneType in wanted else ""
    # One of a field's own words is that word, also where YAML would read it as true or false.
    if text in wanted or (str in wanted and text[0] not in "'\"" and text not in ("null", "~")):
        return text
    try:
        return yaml.load(text, _Loader)
    except _REFUSED:
        return text


def _problem(error: Any) -> Problem:
    """pydantic's finding in words that say what to do."""
    # Union members and validators append parts of their own to the location: two are ours.
    location = [str(part) for part in error["loc"]]
    field = ".".join(location[:2])
    if len(location) > 2 and location[2].isdecimal():
        return _item_problem(error, location, field)
    if error["type"] == "extra_forbidden":
        known = list(SECTIONS) if len(location) == 1 else list(SECTIONS[location[0]].model_fields)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known)}."
        return Problem(field, "is not a setting.", hint)
    if len(location) == 1:
        return Problem(
            field,
            "is not a section with fields below it.",
            "Write `field: value` lines below it, indented.",
        )
    shown = _short(error["input"])
    info = SECTIONS[location[0]].model_fields[location[1]]
    default = show(info.default) or "empty"
    return Problem(field, f"{shown} {_why(error)}.", f"The default is {default}.")


def _item_problem(error: Any, location: list[str], field: str) -> Problem:
    """A finding inside a list: which item, and which of its parts."""
    # A step's location holds its kind too, a source's does not.
    part = location[-1] if len(location) > 3 else ""
    where = f"item {int(location[2]) + 1}{f', {part}' if part else ''}:"
    if error["type"] == "missing":
        return Problem(field, f"{where} is missing.", f"Write {part} too.")
    if error["type"] == "extra_forbidden":
        return Problem(field, f"{where} is no part of it.", "Remove it.")
    if error["type"].startswith("union_tag"):
        expected = error.get("ctx", {}).get("expected_tags", "")
        return Problem(field, f"{where} says not what to do.", f"`do` is one of {expected}.")
    return Problem(field, f"{where} {_short(error['input'])} {_why(error)}.", "Mend or remove it.")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


_WHY = {
    "greater_than_equal": "is too small: use {ge} or more",
    "greater_than": "is too small: use more than {gt}",
    "less_than_equal": "is too large: use {le} or less",
    "less_than": "is too large: use less than {lt}",
    "literal_error": "is none of {expected}",
    "string_too_short": "is too short",
    "too_short": "is empty",
    "string_type": "is not text",
    "list_type": "is not a list of names",
    "finite_number": "is not a finite number",
    "none_required": "must be left empty",
}


def _why(error: Any) -> str:
    """pydantic's kind of error as the end of a sentence that begins with the value."""
    kind = str(error["type"])
    if kind in _WHY:
        return _WHY[kind].format(**error.get("ctx", {}))
    for start, words in (
        ("int", "is not a whole number"),
        ("float", "is not a number"),
        ("bool", "is neither true nor false"),
    ):
        if kind.startswith(start):
            return words
    return f"is not allowed: {error['msg'].lower()}"
