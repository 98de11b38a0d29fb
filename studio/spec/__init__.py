"""The spec: one typed definition of every setting; forms, recipes and the command line follow."""

from studio.spec.field import Meta, meta_of, show
from studio.spec.recipe import (
    DEFAULTS,
    SECTIONS,
    RunSpec,
    check,
    diff,
    dump,
    fields,
    load,
    load_tree,
    loads,
    parse,
    with_overrides,
)
from studio.spec.sections import (
    AdapterSection,
    DataSection,
    EvalSection,
    GenerateSection,
    ModelSection,
    TrainSection,
)

__all__ = [
    "DEFAULTS",
    "SECTIONS",
    "AdapterSection",
    "DataSection",
    "EvalSection",
    "GenerateSection",
    "Meta",
    "ModelSection",
    "RunSpec",
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
    "show",
    "with_overrides",
]
