"""The committed records, newest first for each case."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def newest(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """For each case its newest results, and under "record" the name of the file."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):  # names are dates
        record = json.loads(path.read_text(encoding="utf-8"))
        for case, results in record["cases"].items():
            found[case] = {**results, "record": path.name}
    return found


def steps(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The steps of a case alone."""
    return {name: value for name, value in results.items() if name not in ("floor", "record")}
