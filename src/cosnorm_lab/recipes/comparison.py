"""What the recipes share: one configuration for each method, variant and seed."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError

Fields = Mapping[str, Any]


def comparison(
    kind: type[RunConfig],
    base: Fields,
    default_rates: Mapping[str, float],
    *,
    methods: Sequence[str] | None = None,
    variants: Callable[[str], Sequence[Fields]] = lambda method: ({},),
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    fields: Fields | None = None,
) -> list[RunConfig]:
    """Configurations, one for each method, variant and seed: all those of the first seed come first.

    Args:
        kind: class of the configurations.
        base: the fields that the runs have in common.
        default_rates: learning rate of each method that the recipe knows.
        methods: the methods to compare; by default all of `default_rates`.
        variants: further fields of the runs of a method, one run each.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates, by method.
        fields: fields that the user wants otherwise, for all methods; variants that have them already are
            taken alone. A list holds several values, one run each.

    Raises:
        LabError: an unknown method or field, a learning rate of a method that does not run, or a number out
            of range.
    """
    methods = list(dict.fromkeys(methods if methods is not None else default_rates))
    rates = learning_rates or {}
    unknown = sorted({*methods, *rates} - set(default_rates))
    if unknown or not methods:
        raise LabError(
            f"unknown method {', '.join(unknown) or '(none given)'}; known are {', '.join(default_rates)}"
        )
    unused = sorted(set(rates) - set(methods))
    if unused:
        raise LabError(
            f"a learning rate was given for {', '.join(unused)}, but only {', '.join(methods)} run"
        )
    if rates and "learning_rate" in (fields or {}):
        raise LabError(
            "learning rates were given twice: by method (--lr) and for all methods (--set or --sweep lr=…)"
        )
    if seeds < 1:
        raise LabError(f"the number of seeds must be at least 1, got {seeds}")
    made = [
        {
            **base,
            "learning_rate": default_rates[method],
            **variant,
            **({"learning_rate": rates[method]} if method in rates else {}),
            **others,
            "method": method,
            "seed": seed,
        }
        for seed in range(seeds)
        for method in methods
        for others in _grid(kind, fields or {})
        for variant in _fitting(kind, base, variants(method), others)
    ]
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    typed = [{name: _of_type(name, value, types[name]) for name, value in values.items()} for values in made]
    try:
        return list(dict.fromkeys(kind(**values) for values in typed))
    except (TypeError, ValueError) as error:
        raise LabError(str(error)) from error


def recipe(
    kind: type[RunConfig],
    base: Fields,
    default_rates: Mapping[str, float],
    *,
    epochs: int,
    variants: Sequence[Fields] = ({},),
) -> Callable[..., list[RunConfig]]:
    """A recipe with the same variants for every method: `comparison` but for the user's choices.

    Args:
        kind: class of the configurations.
        base: the fields that the runs have in common.
        default_rates: learning rate of each method that the recipe knows.
        epochs: how many, unless the user says otherwise.
        variants: further fields of the runs of each method, one run each.

    Returns:
        A function of `methods`, `epochs`, `seeds`, `learning_rates` and any other fields, as of `comparison`.
    """
    usual = epochs

    def configs(
        methods: Sequence[str] | None = None,
        *,
        epochs: int = usual,
        seeds: int = 1,
        learning_rates: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> list[RunConfig]:
        return comparison(
            kind,
            {**base, "epochs": epochs},
            default_rates,
            methods=methods,
            variants=lambda method: variants,
            seeds=seeds,
            learning_rates=learning_rates,
            fields=fields,
        )

    return configs


def _grid(kind: type[RunConfig], fields: Fields) -> list[Fields]:
    """Every combination of the values of the fields."""
    known = [
        field.name for field in dataclasses.fields(kind) if field.name not in ("recipe", "method", "seed")
    ]
    for name in fields:
        if name not in known:
            raise LabError(f"these runs have no field {name!r}; known are {', '.join(known)}")

    def values(name: str) -> list[Any]:
        return list(fields[name]) if isinstance(fields[name], list) else [fields[name]]

    return [
        dict(zip(fields, combination, strict=True))
        for combination in itertools.product(*(values(name) for name in fields))
    ]


def check_types(kind: type[RunConfig], fields: Fields) -> None:
    """Checks what the user gave of a kind of run, before a recipe reckons with it.

    Raises:
        LabError: a value is not of its field's type.
    """
    for field in dataclasses.fields(kind):
        given = fields.get(field.name, [])
        for value in given if isinstance(given, list) else [given]:
            _of_type(field.name, value, field.type)
    _of_type("seeds", fields.get("seeds", 1), int)


def _of_type(name: str, value: Any, wanted: Any) -> Any:
    """A value as its field wants it."""
    if str(wanted).startswith("tuple"):
        value = (value,) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        fits, words = isinstance(value, tuple), "whole numbers, such as 512-256"
    elif wanted is bool:
        fits, words = isinstance(value, bool), "true or false"
    elif wanted is str:
        fits, words = isinstance(value, str), "a word"
    else:
        kinds = (int, float) if wanted is float else int
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        words = "a number" if wanted is float else "a whole number"
    if not fits:
        shown = {"learning_rate": "lr"}.get(name, name)
        raise LabError(f"{shown} expects {words}, got {value!r}")
    return value


def _fitting(
    kind: type[RunConfig], base: Fields, variants: Sequence[Fields], wanted: Fields
) -> Sequence[Fields]:
    """The variants that have the wanted values already; if there are none, all of them."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return [
        variant
        for variant in variants
        if all({**defaults, **base, **variant}[name] == value for name, value in wanted.items())
    ] or variants
