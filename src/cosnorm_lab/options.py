"""Options of the command line that are small languages: rates of methods, fields of runs."""

import re
from typing import Any

from cosnorm_lab.errors import LabError

ALIASES = {"lr": "learning_rate"}


def parse_rates(options: list[str]) -> tuple[dict[str, float] | str, float | None]:
    """["cosine=10"] → ({"cosine": 10.0}, None); ["0.1"] → ({}, 0.1); ["paper"] → ("paper", None).

    Raises:
        LabError: an option is none of METHOD=VALUE, VALUE and paper, or they do not go together.
    """
    rates: dict[str, float] = {}
    every: list[float | str] = []
    for option in options:
        method, separator, value = option.rpartition("=")
        if option == "paper":
            every.append(option)
            continue
        try:
            number = float(value)
        except ValueError:
            raise LabError(
                "--lr expects METHOD=VALUE with a number, such as cosine=10, a number for all methods, or "
                f"paper; got {option!r}"
            ) from None
        if separator and method.strip() in rates:
            raise LabError(f"--lr was given twice for {method.strip()}; give one rate")
        if separator:
            rates[method.strip()] = number
        else:
            every.append(number)
    if len(every) + bool(rates) > 1:
        raise LabError(
            "--lr was given for all methods and once more; give one rate, or METHOD=VALUE for each"
        )
    if not every:
        return rates, None
    if isinstance(every[0], str):
        return every[0], None
    return {}, every[0]


def parse_fields(options: list[str], option_name: str = "--set") -> dict[str, Any]:
    """["temperature=0.2", "batch_size=256,1024"] → {"temperature": 0.2, "batch_size": [256, 1024]}.

    Several values are separated by commas; "1000-1000" is a tuple, as the layers of `hidden` are.

    Raises:
        LabError: an option is not FIELD=VALUE; the message calls it `option_name`.
    """
    fields = {}
    for option in options:
        name, separator, text = option.partition("=")
        if not separator or not name.strip() or not text.strip():
            raise LabError(f"{option_name} expects FIELD=VALUE, such as temperature=0.2; got {option!r}")
        values = [_parse_value(part.strip()) for part in text.split(",")]
        fields[ALIASES.get(name.strip(), name.strip())] = values if len(values) > 1 else values[0]
    return fields


def _parse_value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"\d+(-\d+)+", text):
        return tuple(map(int, text.split("-")))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
