"""The audit's report as cards: what was found, how often, an example, and the way to mend it."""

from collections.abc import Sequence
from html import escape
from typing import Any

from studio.data.findings import LANGUAGES, Finding, Report, blocking, from_dicts
from studio.ui import acts, html
from studio.ui.steps import words

_SIGNS = {"stop": "✕", "warn": "!", "info": "i"}
_SAYS = {"stop": "would ruin the run", "warn": "look at it", "info": "good to know"}
# Without a template there is nothing to accept: no row could be written.
_NEVER = ("no_template",)
_ORDER = ("stop", "warn", "info")


def report(found: Report, accepted: Sequence[str]) -> str:
    """The whole report; what stops a run comes first."""
    findings = sorted(found.findings, key=lambda f: _ORDER.index(f.severity))
    stopping = blocking(findings, accepted)
    verdict = (
        f"<p class='bad'><b>{len(stopping)} finding{'s' if len(stopping) > 1 else ''} would ruin "
        "a run.</b> Start waits until each is mended or accepted.</p>"
        if stopping
        else "<p class='good'><b>Nothing here would ruin a run.</b></p>"
    )
    items = "".join(finding(f, f.id in accepted) for f in findings)
    listing = f"<ul class='findings'>{items}</ul>" if items else ""
    return verdict + _numbers(found.counts, found.languages) + listing


def _numbers(counts: dict[str, Any], languages: dict[str, int]) -> str:
    trained, tokens = counts.get("trained_tokens", 0), counts.get("tokens", 0)
    share = f"{100 * trained / tokens:.0f} % of them trained" if tokens else ""
    pairs = [
        ("Rows", f"{counts.get('rows', 0):,}", "all of them"),
        ("Tokens", f"{tokens:,}", share),
        ("Median length", f"{counts.get('length_p50', 0):,}", "tokens a row"),
        (
            "Longest",
            f"{counts.get('length_max', 0):,}",
            f"99 % below {counts.get('length_p99', 0):,}",
        ),
        *([("Language", *_spoken(languages))] if languages else []),
    ]
    return html.facts(pairs)


def _spoken(languages: dict[str, int]) -> tuple[str, str]:
    """The language of most rows, and the share of others."""
    all_rows = sum(languages.values())
    shares = [
        f"{LANGUAGES.get(name, name)} {100 * count / all_rows:.1f} %"
        for name, count in sorted(languages.items(), key=lambda pair: -pair[1])
    ]
    more = f" and {len(shares) - 4} more" if len(shares) > 4 else ""
    return shares[0], ", ".join(shares[1:4]) + more


def finding(found: Finding, accepted: bool) -> str:
    """One finding as a list item, with what can be done about it."""
    does = []
    if found.remedy is not None and not accepted:
        does.append(_remedy(found.remedy))
    if found.severity == "stop" and found.id not in _NEVER:
        does.append(
            "<span class='soft'>accepted</span>"
            if accepted
            else acts.button("Accept as it is", {"do": "accept", "finding": found.id}, kind="quiet")
        )
    example = ""
    if found.example:
        position = found.example.get("position")
        where, shown = found.example.get("where", ""), str(found.example.get("shown", ""))
        text = ": ".join(part for part in (str(where), shown[:160]) if part)
        example = f"<small dir='auto'>{escape(text)}</small>"
        if isinstance(position, int) and position >= 0:
            does.insert(0, acts.button("Look", {"do": "row", "at": position}, kind="quiet"))
    severity = "info" if accepted else found.severity
    return (
        f"<li class='{severity}'><i title='{_SAYS[found.severity]}'>{_SIGNS[found.severity]}</i>"
        f"<div><span>{html.ticked(found.words)}</span>{example}</div>"
        f"<div class='does'>{''.join(does)}</div></li>"
    )


def _remedy(remedy: dict[str, Any]) -> str:
    if "field" in remedy:
        name = str(remedy["field"]).partition(".")[2]
        act = {"do": "set", "field": remedy["field"], "value": remedy["value"]}
        value = str(remedy["value"])
        return acts.button(f"Set {name} to {value}" if len(value) < 40 else f"Mend {name}", act)
    said = "Leave them out" if remedy.get("do") == "drop" else words(remedy)
    return acts.button(said, {"do": "add", "step": remedy}, label=words(remedy))


def notes(findings: Sequence[Any], accepted: Sequence[str] = ()) -> str:
    """What is to be said of the chat template, as a card; what does no harm, behind a click."""
    ranked = sorted(from_dicts(findings), key=lambda f: _ORDER.index(f.severity))
    if not ranked:
        return ""
    items = "".join(finding(f, f.id in accepted) for f in ranked)
    listing = f"<ul class='findings'>{items}</ul>"
    if ranked[0].severity == "info":
        summary = "<summary>Good to know of the chat template</summary>"
        return f"<div class='card'><details>{summary}{listing}</details></div>"
    return html.card("About the chat template", listing)


def lengths(found: dict[str, Any]) -> str:
    """A histogram of lengths in tokens with what is cut; see `jobs.lengths`."""
    limit, cut, sampled, total = (found[k] for k in ("max_length", "cut", "sampled", "total"))
    of = "all rows" if sampled >= total else f"{sampled:,} of {total:,} rows"
    said = (
        f"{cut:,} of them longer than max_length and cut"
        if cut
        else f"none longer than max_length ({limit:,})"
    )
    return histogram(found["bins"], limit, f"{of}, up to {found['longest']:,} tokens; {said}")


def histogram(bins: Sequence[Sequence[int]], max_length: int, title: str) -> str:
    """Lengths in tokens as bars, `max_length` as a line; what lies beyond it would be cut.

    `bins` are [from, to, count], ascending and of one width.
    """
    if not bins:
        return ""
    bins = _up_to(bins, max_length)
    top = max(count for _, _, count in bins) or 1
    width = 100 / len(bins)
    bars = []
    for number, (start, end, count) in enumerate(bins):
        height = 100 * count / top
        kind = "over" if start >= max_length else ""
        bars.append(
            f"<rect class='{kind}' x='{number * width + 0.2:.2f}' y='{100 - height:.2f}' "
            f"width='{max(0.3, width - 0.4):.2f}' height='{height:.2f}'>"
            f"<title>{start:,} to {end:,} tokens: {count:,} rows</title></rect>"
        )
    last = bins[-1][1]
    at = next(
        (
            n * width + width * (max_length - a) / max(1, b - a)
            for n, (a, b, _) in enumerate(bins)
            if a <= max_length < b
        ),
        None,
    )
    line = f"<line x1='{at:.2f}' x2='{at:.2f}' y1='0' y2='100'/>" if at is not None else ""
    limit = f"max_length {max_length:,}{'' if at is not None else ' lies far to the right →'}"
    return (
        f"<figure class='lengths'><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 100 100' preserveAspectRatio='none' role='img' "
        f"aria-label='{escape(title, quote=True)}'>{''.join(bars)}{line}</svg>"
        f"<div class='axis'><span>{bins[0][0]:,}</span>"
        f"<span class='limit' style='left:{min(max(at or 70, 16), 70):.1f}%'>{limit}</span>"
        f"<span>{last:,} tokens</span></div></figure>"
    )


def _up_to(bins: Sequence[Sequence[int]], max_length: int) -> Sequence[Sequence[int]]:
    """The bins, and empty ones up to `max_length` where that does not leave most of them empty."""
    begin, end, _ = bins[-1]
    if not end <= max_length <= 3 * end:
        return bins
    more = range(end, max_length + 1, end - begin)
    return [*bins, *([at, at + end - begin, 0] for at in more)]
