"""Which method is best on data of any kind, at which rate, and what of it the records support."""

import dataclasses
from collections.abc import Sequence

from cosnorm_lab.report.claims import Claim
from cosnorm_lab.report.differences import share_interval
from cosnorm_lab.report.headlines import Headline, beside_rivals, setting_of
from cosnorm_lab.report.series import Series, setting

Settings = dict[tuple[tuple[str, str], ...], list[Series]]
NORMALIZED = ("mlp", "cnn")  # kinds of runs whose methods are normalizations


def of_any_data(series: Sequence[Series], place: str, *, searched: bool = False) -> list[Headline]:
    """Which method has the fewest errors, in each setting that several methods were trained in.

    Its rival is the next best method, with cosines or without.

    Args:
        series: Those of one recipe on one data set.
        place: The anchor of their section.
        searched: Whether learning rates were searched for on held-back samples.
    """
    settings: Settings = {}
    for one in series:
        if one.completed:
            settings.setdefault(setting_of(one.config), []).append(one)
    found = []
    for number, members in enumerate(settings.values(), start=1):
        members.sort(key=_errors)
        best = members[0]
        others = [one for one in members if one.method != best.method]
        rivals: dict[str, Series] = {}
        for one in others:
            rivals.setdefault(one.method, one)
        if not rivals:
            continue
        claim = Claim(
            name=f"{place}-best" + (f"-{number}" if len(settings) > 1 else ""),
            recipe=best.config.recipe,
            label=best.runs[0].data_name.partition(" (")[0],
            text="",
            ours={"method": best.method},
            top=best.config.kind in NORMALIZED,
        )
        head = beside_rivals(claim, place, best, list(rivals.values()), rates=True)
        claim = dataclasses.replace(claim, text=_text(best, members, head, list(settings.values())))
        further = (*head.further, *_further(best, next(iter(rivals.values())), members, searched))
        found.append(dataclasses.replace(head, claim=claim, further=further))
    return found


def _errors(series: Series) -> float:
    return series.mean_errors() or 0.0


def _text(
    best: Series, members: Sequence[Series], head: Headline, settings: Sequence[Sequence[Series]]
) -> str:
    name = best.method_name
    if all(one.at_chance for one in members):
        return f"no method is better than always guessing the most frequent class; {name} comes nearest"
    mean = "" if head.order is not None and head.order.supported else " in the mean"
    rivals = [one for one in settings if len({other.method for other in one}) > 1]
    mine = dict(setting_of(best.config))
    others = [dict(setting_of(one[0].config)) for one in rivals]
    differing = [name for name, value in mine.items() if any(one.get(name) != value for one in others)]
    where = ", ".join(f"{setting(name)} {mine[name]}" for name in differing)
    return f"{name} has the fewest errors{mean}" + (f", {where}" if where else "")


def _further(best: Series, rival: Series, members: Sequence[Series], searched: bool) -> list[str]:
    """What the finite test set leaves open, who only guesses, how the rates were found, and the layers."""
    count = best.completed[0].epochs[-1]["count"]
    low, high = (100 * share for share in share_interval(_errors(best), count))
    said = [
        f"{count:,} test samples alone leave {low:.3g} to {high:.3g} % open for {best.method_name} "
        "(95 %, one trained network)."
    ]
    guessing = [one.label for one in members if one.at_chance]
    if guessing:
        said.append(f"At chance: {', '.join(guessing)}.")
    if best.config.kind not in NORMALIZED:
        return said
    rates = {(one.method, one.config.learning_rate) for one in members}
    if len(rates) > len({method for method, _ in rates}):
        said.append(
            "Rates were compared on the very test samples that the figures are of, which flatters the best; "
            "a search on held-back samples chooses beforehand."
        )
    elif searched:
        said.append("Learning rates were chosen on held-back training samples.")
    layers = [_layer(one) for one in (best, rival)]
    if all(layers):
        said.append(f"First layer after the last epoch: {'; '.join(layers)}.")
    return said


def _layer(series: Series) -> str:
    found = series.completed[0].epochs[-1].get("layers")
    if not found:
        return ""
    length, rate = found[0]["weight_norm"], found[0]["effective_learning_rate"]
    return f"{series.method_name} |w| {length:.3g}, effective learning rate lr/|w|² {rate:.3g}"
