"""The headlines in Markdown: tables and sentences for pages and papers."""

import html
import textwrap
from collections.abc import Sequence

from cosnorm_lab.report.answers import Answers
from cosnorm_lab.report.headlines import NOT_RUN, Headline
from cosnorm_lab.report.rows import NOTHING

WIDTH = 110


def escaped(text: str) -> str:
    """Text that neither Markdown's tables nor HTML take for their own."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def headlines_block(found: Answers, page: str = "", *, linked: bool = True) -> str:
    """What stands on top of the report: the summary, and a table for each group of headlines.

    Args:
        found: The answers.
        page: The text that it is for: a recipe whose table stands there is linked on the page itself, others
            on the laboratory's.
        linked: Whether there are links at all.
    """
    parts = [_filled(" ".join(found.summary))] if found.summary else []
    for heading, headlines in found.grouped:
        if headlines:
            parts += [f"**{heading}**", _table(headlines, page, linked)]
    if found.not_run:
        parts.append(_filled(escaped(found.not_run)))
    return "\n\n".join(parts) or "No method has a rival yet."


def _table(headlines: Sequence[Headline], page: str, linked: bool) -> str:
    paper = any(one.paper is not None for one in headlines)
    headings = ["claim", "ours", "the best rival", "verdict", *["the paper’s"] * paper]
    lines = [headings, ["---"] * len(headings)]
    for one in headlines:
        claim = escaped(_upper(one.claim.text))
        if linked and one.anchor:
            where = "" if f"<!-- {one.claim.recipe} -->" in page else "laboratory.md"
            claim = f"[{claim}]({where}#{one.claim.recipe})"
        lines.append([claim, *_cells(one)[: len(headings) - 1]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(one: Headline) -> list[str]:
    if one.ours is None:
        return [NOTHING, NOTHING, NOT_RUN, NOTHING]
    sides = [NOTHING if side is None else side.named for side in (one.ours, one.other)]
    paper = NOTHING
    if one.paper is not None and one.beside is not None:
        paper = f"{one.ours.quantity.written(one.paper)}: {one.paper_word} ({one.beside.tested})"
    tested = f": {one.said}" if one.said and one.p is not None else ""
    return [escaped(cell) for cell in (*sides, f"**{one.word}**{tested}", paper)]


def behind_block(found: Answers) -> str:
    """Where cosine loses, a line each; and how many more settings are behind in the mean alone."""
    items = [f"* {one.difference.word}: {escaped(f'{one.where}: {one.text}')}" for one in found.lost]
    more = len(found.behind) - len(found.lost)
    if more:
        number = f"{more}{' more' if found.lost else ''} {'setting has' if more == 1 else 'settings have'}"
        items.append(f"* {number} a method that is ahead of cosine in the mean, not supported by a test.")
    return "\n".join(_filled(item, "  ") for item in items) or "Nowhere in these records."


def said_block(headlines: Sequence[Headline]) -> str:
    """The verdict of a section: a line a headline."""
    return "\n".join(_filled(f"* {escaped(one.sentence)}", "  ") for one in headlines) or "No claim."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
