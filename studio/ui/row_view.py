"""One row from all sides: as a chat, as tokens, as exact text, raw; and a batch of the trainer."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from studio.errors import StudioError
from studio.ui import html

# What each strategy of packing does to rows.
_PACKED = {
    "bfd": "No row is cut for it, and none sees another.",
    "bfd_split": "A row that is too long goes on in the next sequence, and none sees another.",
    "wrapped": "A row may go on in the next sequence, and those in one sequence see each other.",
}
_NAMES = {"": "", "chosen": "the better answer", "rejected": "the worse answer"}


def row(reply: dict[str, Any], found: dict[str, Any]) -> str:
    """The cards of one row of a preview; `found` is the row, `reply` what surrounds it."""
    part = {"train": "", "validation": " · for evaluation", "test": " · for the test"}
    title = place(found["index"] + 1, reply["total"]) + part.get(str(found.get("part")), "")
    parts = [_talk(title, found)]
    if found.get("problem"):
        parts.append(
            html.card(
                "Why it can't be trained",
                html.problem(StudioError(found["problem"], found.get("hint") or "")),
            )
        )
    for sequence in found.get("sequences", ()):
        of = _NAMES.get(sequence["name"], sequence["name"])
        title = f"Its tokens, coloured by what is learned{f': {of}' if of else ''}"
        parts.append(html.card(title, html.tokens(sequence)))
    for sequence in found.get("sequences", ()):
        of = _NAMES.get(sequence["name"], sequence["name"])
        parts.append(
            html.card(f"The exact text{f': {of}' if of else ''}", html.exact(sequence["text"]))
        )
    parts.append(raw(found.get("raw"), found.get("where", "")))
    return "".join(parts)


def place(number: int, total: int) -> str:
    """Which row it is; after the `total` that are split come those of held-out files."""
    if number > total:
        return f"Held-back row {number - total:,}"
    return f"Row {number:,} of {total:,}"


def _talk(title: str, found: dict[str, Any]) -> str:
    said = html.tools(found.get("tools")) + html.bubbles(found.get("messages") or ())
    if found.get("chosen"):
        label = found.get("label")
        name = "The better answer" if label is None else "Marked good" if label else "Marked bad"
        said += f"<h4>{name}</h4>" + html.bubbles(found["chosen"])
    if found.get("rejected"):
        said += "<h4>The worse answer</h4>" + html.bubbles(found["rejected"])
    kind = found.get("kind")
    if kind in ("text", "completion"):
        what = "plain text, learned whole" if kind == "text" else "text from your prompt template"
        said += f"<p class='soft'>Not a chat: {what}.</p>"
    return html.card(title, said or "<p class='soft'>It can't be shown as a chat.</p>")


def raw(value: Any, where: str) -> str:
    """The row as it stands in its file, behind a click."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return (
        f"<div class='card'><details><summary>Raw, from {escape(where or 'its source')}</summary>"
        f"<pre class='code wrap' dir='auto'>{html.shortened(text)}</pre></details></div>"
    )


def batch(reply: dict[str, Any]) -> str:
    """A batch as the trainer gets it: each line a sequence, its rows as bars, what pads it."""
    height, width = reply["shape"]
    lines = []
    for rows, lengths in zip(reply["rows"], reply["lengths"], strict=True):
        bars = "".join(
            f"<i style='width:{100 * length / max(1, width):.3f}%' title='row {row + 1}: "
            f"{length} tokens'>{row + 1 if 100 * length / max(1, width) > 4 else ''}</i>"
            for row, length in zip(rows, lengths, strict=True)
        )
        lines.append(f"<div class='packed'>{bars}</div>")
    full = 100 * (1 - reply["padding"] / max(1, reply["tokens"] + reply["padding"]))
    if reply["packed_full"]:
        packing = (
            f"Packing puts {reply['prepared']:,} rows into {reply['sequences']:,} sequences, "
            f"{100 * reply['packed_full']:.0f} % full. {_PACKED[reply['strategy']]}"
        )
    else:
        packing = "Each row stands by itself, for packing is off."
    facts = html.facts(
        [
            ("Shape", f"{height} × {width:,}", "sequences × tokens"),
            ("Filled", f"{full:.0f} %", f"{reply['padding']:,} padding tokens"),
            ("Trained", f"{reply['trained']:,}", f"of {reply['tokens']:,} tokens"),
        ]
    )
    return (
        f"<p class='soft'>Batch {reply['number'] + 1:,} of {reply['batches']:,} in the first "
        f"epoch, in the order of the run. {packing}</p>{facts}{''.join(lines)}"
        "<p class='soft'>sha256 of its input_ids and labels; the run notes the same for its first "
        f"batch:</p><code class='digest'>{escape(reply['sha256'])}</code>"
    )


def cells(example: Any) -> tuple[str, str]:
    """The first question and the first answer of an example, for the table."""
    if example.kind in ("text", "completion"):
        return example.prompt[:200], example.completion[:200]
    said: Sequence[dict[str, Any]] = [*example.messages, *example.chosen]
    asked = next((str(m["content"]) for m in said if m["role"] == "user"), "")
    answer = next(
        (str(m["content"]) for m in said if m["role"] == "assistant" and m["content"]), ""
    )
    return asked[:200], answer[:200]
