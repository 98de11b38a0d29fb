"""The spec: one typed definition of every setting; forms, recipes and the command line follow."""

from studio.spec.adapter import AdapterSection
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
from studio.spec.field import Meta, meta_of, show
from studio.spec.generate import GenerateSection
from studio.spec.model import ModelSection
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
    with_overrides,
)
from studio.spec.train import EvalSection, TrainSection
from studio.spec.trainers import DpoSection, KtoSection

__all__ = [
    "COUNT",
    "DEFAULTS",
    "SECTIONS",
    "SHARE",
    "SLICE",
    "AdapterSection",
    "DataSection",
    "DpoSection",
    "Drop",
    "DropColumns",
    "EvalSection",
    "Filter",
    "GenerateSection",
    "KtoSection",
    "Meta",
    "ModelSection",
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
    "parse",
    "plain",
    "show",
    "tree",
    "with_overrides",
]
