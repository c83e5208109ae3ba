"""Made-up records for the tests of what is drawn from records."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.records import Run, read, record_path

# Rate, errors at the end, width of the neuron's band: about what the real runs give.
SHAPES = {
    "baseline": (0.1, 197, 3.0),
    "cosine": (10.0, 136, 0.2),
    "centered": (10.0, 133, 0.2),
    "batch": (5.0, 150, 1.5),
    "layer": (1.0, 165, 2.0),
    "weight": (5.0, 193, 8.0),
    "max": (1.0, 151, 12.0),
    "mean-only": (0.1, 180, 25.0),
}


def config(method: str = "cosine", **changes: Any) -> MLPConfig:
    rate = SHAPES[method][0]
    settings = {"recipe": "mnist-table1", "dataset": "mnist", "hidden": (1000, 1000), "epochs": 200}
    return MLPConfig(**{**settings, "method": method, "learning_rate": rate, **changes})


def write_record(
    folder: Path,
    settings: RunConfig,
    *,
    status: str | None = "completed",
    message: str = "",
    errors: Sequence[int] | None = None,
    extra: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Run:
    """Write the record of a made-up run and read it back; status None leaves out the end line."""
    data = {"name": settings.dataset, "checksums": {}, "exact": True, **(data or {})}
    path = record_path(folder, settings, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    _, last, width = SHAPES.get(settings.method, SHAPES["cosine"])
    if errors is None:
        wiggle = [round(3 * math.sin(epoch * 1.7 + settings.seed)) for epoch in range(1, settings.epochs + 1)]
        errors = [
            round(last * (1 + 2.5 / (index + 1))) + wiggle[index] + settings.seed * 2
            for index in range(settings.epochs)
        ]
    lines: list[dict[str, Any]] = [
        {
            "kind": "start",
            "format": 1,
            "recipe": settings.recipe,
            "config": settings.to_dict(),
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "versions": {"python": "3.13.0", "torch": "2.13.0", "numpy": "2.4.0", "cosnorm": "0.1.0"},
            "host": {"cpu": "Some CPU", "cores": 2, "threads": 2, "device": "cpu", "processes": 1},
            "data": data,
            "started": "2026-01-01T00:00:00+00:00",
        }
    ]
    for epoch, count in enumerate(errors, start=1):
        grown = math.log1p(epoch)
        layers = [
            {"name": name, "weight_norm": 2.0 + grown, "effective_learning_rate": 1.0 / (2.0 + grown) ** 2}
            for name in ("hidden1", "hidden2", "output")
        ]
        band = [-width * (1 + grown / 8), -width / 10, width * (1 + grown / 10)]
        of_mlp = {"layers": layers, "pre_activation": band} if isinstance(settings, MLPConfig) else {}
        lines.append(
            {
                "kind": "epoch",
                "epoch": epoch,
                "loss": 1.0 / epoch,
                "errors": count,
                "count": 10_000,
                "seconds": 4.0 + 0.01 * epoch,
                "evaluation_seconds": 0.5,
                **of_mlp,
                **(extra or {}),
            }
        )
    if status is not None:
        end = {"kind": "end", "status": status, "message": message, "seconds": 900.0, "time": "2026-01-01"}
        lines.append(end)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read(path)


def every_method(folder: Path, **changes: Any) -> list[Run]:
    return [write_record(folder, config(method, **changes)) for method in NORMALIZATIONS]
