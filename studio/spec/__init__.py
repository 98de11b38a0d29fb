"""The spec: one typed definition of every setting; forms, recipes and the command line follow."""

from studio.spec.adapter import LAYERWISE, METHODS, PROMPTS, AdapterSection, not_merged
from studio.spec.check import check
from studio.spec.data import (
    COUNT,
    SHARE,
    SLICE,
    DataSection,
    Drop,
    DropColumns,
    Filter,
    Shuffle,
    Source,
    Step,
    System,
    Take,
)
from studio.spec.evaluate import EvalSection
from studio.spec.fast import FastSection, refusals
from studio.spec.field import Meta, meta_of, show
from studio.spec.generate import GenerateSection
from studio.spec.grpo import REWARDS, GrpoSection
from studio.spec.model import ModelSection
from studio.spec.optimizer import MEASURED
from studio.spec.recipe import (
    DEFAULTS,
    SECTIONS,
    RunSpec,
    diff,
    dump,
    fields,
    load,
    load_tree,
    loads,
    parse,
    plain,
    tree,
    used,
    value_at,
    value_of,
    with_overrides,
    with_values,
)
from studio.spec.train import NEXT_TOKEN, PAIRED, TRAINERS, TrainSection
from studio.spec.trainers import CptSection, DpoSection, KtoSection, OrpoSection, RewardSection

__all__ = [
    "COUNT",
    "DEFAULTS",
    "LAYERWISE",
    "MEASURED",
    "METHODS",
    "NEXT_TOKEN",
    "PAIRED",
    "PROMPTS",
    "REWARDS",
    "SECTIONS",
    "SHARE",
    "SLICE",
    "TRAINERS",
    "AdapterSection",
    "CptSection",
    "DataSection",
    "DpoSection",
    "Drop",
    "DropColumns",
    "EvalSection",
    "FastSection",
    "Filter",
    "GenerateSection",
    "GrpoSection",
    "KtoSection",
    "Meta",
    "ModelSection",
    "OrpoSection",
    "RewardSection",
    "RunSpec",
    "Shuffle",
    "Source",
    "Step",
    "System",
    "Take",
    "TrainSection",
    "check",
    "diff",
    "dump",
    "fields",
    "load",
    "load_tree",
    "loads",
    "meta_of",
    "not_merged",
    "parse",
    "plain",
    "refusals",
    "show",
    "tree",
    "used",
    "value_at",
    "value_of",
    "with_overrides",
    "with_values",
]
