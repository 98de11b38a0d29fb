"""Small pieces of HTML. Everything that comes from data or a model is escaped here."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from studio.errors import Problem, StudioError


def lead(title: str, text: str) -> str:
    """The head of a tab."""
    return f"<div class='lead'><h2>{escape(title)}</h2><p>{escape(text)}</p></div>"


def facts(pairs: Iterable[tuple[str, str, str]]) -> str:
    """A list of (name, value, small print)."""
    items = (
        f"<div><dt>{escape(n)}</dt><dd>{escape(v)}<small>{escape(s)}</small></dd></div>"
        for n, v, s in pairs
    )
    return f"<dl class='facts'>{''.join(items)}</dl>"


def card(title: str, *parts: str) -> str:
    """A card; `parts` are HTML."""
    return f"<div class='card'><h3>{escape(title)}</h3>{''.join(parts)}</div>"


def problem(error: StudioError) -> str:
    """An error as a note: what happened and what to do."""
    return _alert(f"<b>{ticked(error.message)}</b> {ticked(error.hint)}")


def done(words: str, *buttons: str) -> str:
    """A line that says what was done, with what can be done about it. `words` are text."""
    return f"<div class='note said-line' role='status'>{escape(words)} {''.join(buttons)}</div>"


def _alert(inner: str) -> str:
    return f"<div class='note problem' role='alert'>{inner}</div>"


def problems(found: Sequence[Problem], does: Callable[[Problem], str] | None = None) -> str:
    """Everything that is wrong with the form, each with its field; and, where `does` says what it
    does, the button that mends it."""
    items = "".join(
        f"<li><b>{escape(p.field)}</b> {escape(p.message)} {escape(p.hint)}"
        f"{_mend(p, does(p)) if does and p.changes else ''}</li>"
        for p in found
    )
    these = "this" if len(found) == 1 else "these"
    return _alert(f"<b>Mend {these} first:</b><ul>{items}</ul>")


def _mend(problem: Problem, words: str) -> str:
    """The page's marks do what such a button says."""
    changes = escape(json.dumps(problem.changes), quote=True)
    return f" <button type='button' class='act' data-mend='{changes}'>{escape(words)}</button>"


def ticked(text: str) -> str:
    """Text in which `names` stand between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def size(count: float) -> str:
    """Bytes in words: 1.2 GB, 34.5 MB, 5.1 kB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def soft(words: str) -> str:
    """A sentence that is no more than said."""
    return f"<p class='soft'>{escape(words)}</p>"


def wait(words: str) -> str:
    """A stage in words while something goes on."""
    return f"<p class='soft wait' role='status'>{escape(words)} …</p>"


def bubbles(messages: Iterable[dict[str, Any]]) -> str:
    """A conversation; each text finds its own direction, left or right. Calls of tools are named
    with what they are called with."""
    parts = []
    for message in messages:
        role = message["role"]
        kind = role if role in ("system", "user", "assistant", "tool") else "tool"
        said = shortened(str(message.get("content") or ""))
        calls = "".join(_call(call) for call in message.get("tool_calls") or ())
        parts.append(
            # What has a direction of its own does not decide about that of the whole.
            f"<div class='said {kind}' dir='auto'><small dir='ltr'>{escape(role)}</small>"
            f"{said}{calls}</div>"
        )
    return f"<div class='talk'>{''.join(parts)}</div>" if parts else ""


def shortened(text: str) -> str:
    """The text as HTML; of a very long one the beginning, and how much more there is."""
    more = f"\n… {len(text) - _MOST:,} more characters" if len(text) > _MOST else ""
    return escape(text[:_MOST]) + more


# Characters of one text: more than that nobody reads, and a page with it is slow.
_MOST = 20_000


def _call(call: dict[str, Any]) -> str:
    function = call.get("function", call)
    given = json.dumps(function.get("arguments"), ensure_ascii=False)
    name = escape(str(function.get("name")))
    return f"<code class='call'>calls <b>{name}</b> {escape(given)}</code>"


def tools(offered: Sequence[dict[str, Any]] | None) -> str:
    """The tools that the model may call, by name, with their descriptions."""
    if not offered:
        return ""
    items = []
    for tool in offered:
        function = tool.get("function", tool)
        about = str(function.get("description") or "")
        items.append(f"<li><b>{escape(str(function.get('name')))}</b> {escape(about)}</li>")
    return f"<div class='said tool'><small>tools it may call</small><ul>{''.join(items)}</ul></div>"


_SPECIAL = re.compile(r"&lt;\|?[A-Za-z_/][\w|/-]*\|?&gt;|\[/?INST\]")


def exact(text: str) -> str:
    """The rendered text, its special tokens marked."""
    marked = _SPECIAL.sub(lambda m: f"<mark>{m[0]}</mark>", shortened(text))
    return f"<pre class='exact'>{marked}</pre>"


def tokens(row: dict[str, Any]) -> str:
    """The tokens of a preview's sequence, coloured by trained or not, cut ones struck through;
    hover tells id and text."""
    parts = [
        _token(piece, number, "t" if trained else "")
        for piece, number, trained in zip(
            row["tokens"], row["input_ids"], row["trained"], strict=True
        )
    ]
    if row["gap"]:
        at, left_out = row["gap"]
        parts.insert(at, f"<b class='gap'> … {left_out:,} tokens more … </b>")
    parts += [_token(*pair, "c") for pair in zip(row["cut"], row["cut_ids"], strict=True)]
    if row["lost"] > len(row["cut"]):
        parts.append(f"<b class='gap'> … {row['lost'] - len(row['cut']):,} tokens more</b>")
    legend = (
        f"<div class='legend'><span><span class='t'>trained</span> {row['learned']:,}</span>"
        f"<span>not trained {row['length'] - row['learned']:,}</span><span><span class='c'>cut "
        f"off</span> {row['lost']:,}</span></div>"
    )
    return f"{legend}<div class='tokens' dir='auto'>{''.join(parts)}</div>"


def _token(piece: str, number: int, kind: str) -> str:
    mark = f" class={kind}" if kind else ""
    title = f"{number} {escape(repr(piece), quote=True)}"
    return f"<span{mark} title='{title}'>{escape(piece)}</span>"
