"""`python -m benchmarks.tables`: the tables of docs/speed.md, and its chart, from the records.

A table stands between `<!-- speed:NAME -->` and `<!-- /speed:NAME -->`.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks.history import newest, steps

ROOT = Path(__file__).parents[1]
PAGES = ("docs/speed.md",)
# The beginning of the names of the cases of each table, and the steps that it shows.
LAYERS = ("cosine", "centered", "weight norm", "batch norm", "layer norm", "normalize + linear by hand")
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "linear-training": ("linear-training-", LAYERS),
    "linear-inference": (
        "linear-inference-",
        ("cosine", "folded cosine", "centered", "folded centered", "weight norm"),
    ),
    "few-training": ("few-training-", LAYERS[:3]),
    "few-inference": ("few-inference-", ("cosine", "folded cosine", "centered", "weight norm")),
    "linear-bfloat16": ("linear-bfloat16-", ("cosine", "weight norm", "cosine in float32")),
    "linear-half": ("linear-half-", ("cosine", "centered")),
    "linear-float64": ("linear-float64-", ("cosine", "centered")),
    "linear-busy": ("linear-busy-", LAYERS),
    "mnist-compiled": (
        "mnist-compiled",
        ("plain, compiled", "cosine", "cosine, compiled", "normalize + linear by hand, compiled"),
    ),
    "linear-compiled": ("linear-compiled-", ("cosine", "compiled formula")),
    "linear-broadcast": ("linear-broadcast-", ("cosine", "F.cosine_similarity")),
    "conv-training": ("conv-training-", ("cosine", "centered", "batch norm")),
    "conv-unfold": ("conv-unfold-", ("cosine", "unfold by hand")),
    "conv-inference": (
        "conv-inference-",
        ("cosine", "folded cosine", "centered", "folded centered", "batch norm"),
    ),
    "conv-channels-last": ("conv-channels-last-", ("cosine", "centered", "batch norm")),
    "pairwise": ("pairwise-10000", ("cosine", "normalize + linear by hand")),
    "mnist-step": ("mnist-step", LAYERS[:-1]),
    "sparse": ("sparse-", ("plain on sparse rows", "cosine", "centered")),
    "recipes": ("recipe-", LAYERS[:-1]),
    "losses": ("nt-xent-", ("ours", "pytorch-metric-learning")),
    "heads": ("heads-", ("ours", "plain without margin")),
    "microbatch": ("microbatch-", ("ours, parts of 1/8", "ours, one part")),
}


def table(name: str, records: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of Markdown: a row for each case, a column for each step, each a ratio to the plain step."""
    if not any(case.startswith(TABLES[name][0]) for case in records):
        return ["Not measured yet."]
    prefix, columns = TABLES[name]
    lines = [
        f"| case | plain, ms | {' | '.join(columns)} | record |",
        f"|---|--:|{'--:|' * len(columns)}---|",
    ]
    for case, results in records.items():
        if not case.startswith(prefix):
            continue
        found = steps(results)
        plain = f"{found['plain']['milliseconds']:.2f}" if "plain" in found else "does not fit"
        cells = [f"{found[c]['ratio']:.2f}" if c in found and "plain" in found else "–" for c in columns]
        lines.append(f"| {case.removeprefix(prefix)} | {plain} | {' | '.join(cells)} | {results['record']} |")
    return lines


def filled(text: str, records: dict[str, dict[str, Any]]) -> str:
    """The text with each of its tables anew."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "\n".join([f"<!-- speed:{name} -->", *table(name, records), f"<!-- /speed:{name} -->"])

    return re.sub(r"<!-- speed:([\w-]+) -->.*?<!-- /speed:\1 -->", replace, text, flags=re.DOTALL)


def draw(records: dict[str, dict[str, Any]], path: Path) -> None:
    """A bar for each step of the training cases: its time over that of the plain layer."""
    from matplotlib.figure import Figure

    cases = [case for case in records if case.startswith(("linear-training-", "conv-training-"))]
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(cases)), layout="constrained")
    axes = figure.add_subplot()
    colours = {"cosine": "#0072b2", "centered": "#56b4e9", "weight norm": "#e69f00", "batch norm": "#999999"}
    height = 0.8 / len(colours)
    for row, case in enumerate(cases):
        for number, (name, colour) in enumerate(colours.items()):
            result = steps(records[case]).get(name)
            if result is None:
                continue
            place = row + (number - (len(colours) - 1) / 2) * height
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            axes.barh(place, result["ratio"], height, color=colour, label=label)
            axes.text(result["ratio"] + 0.01, place, f"{result['ratio']:.2f}", va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(cases)), cases, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("forward and backward, time over that of the plain layer (medians, two CPU threads)")
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Write the tables into the pages, and the chart beside them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    records = newest()
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8"), records), encoding="utf-8")
    draw(records, ROOT / "docs" / "speed.png")


if __name__ == "__main__":
    main()
