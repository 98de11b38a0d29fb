"""Recipes and runs of earlier versions, in today's words."""

from collections.abc import Mapping
from typing import Any


def upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with the settings of version 0.1 that have another name today under that name."""
    data = tree.get("data")
    if not isinstance(data, Mapping) or not {"test_size", "max_rows", "system_prompt"} & set(data):
        return dict(tree)
    data = dict(data)
    steps = []
    if (rows := data.pop("max_rows", None)) is not None:
        steps.append({"do": "take", "rows": rows})
    if text := data.pop("system_prompt", None):
        steps.append({"do": "system", "text": text})
    if (share := data.pop("test_size", None)) is not None:
        numeric = isinstance(share, int | float) and not isinstance(share, bool)
        data.setdefault("validation", f"{100 * share:g}%" if numeric else str(share))
    if steps:
        data["steps"] = [*steps, *(data.get("steps") or [])]
    return {**tree, "data": data}
