"""Every margin by its name: what heads take a name for, and what the tests go through."""

from collections.abc import Callable
from typing import Any

from cosnorm.functional.batch_margins import (
    AdaFaceMargin,
    BatchMargin,
    CurricularMargin,
    ElasticMargin,
    MagFaceMargin,
)
from cosnorm.functional.margins import (
    AdditiveAngle,
    AdditiveCosine,
    CombinedMargin,
    Margin,
    MultiplicativeAngle,
    NoMargin,
)

MARGINS: dict[str, Callable[..., Margin | BatchMargin]] = {
    "adaface": AdaFaceMargin,
    "arcface": AdditiveAngle,
    "combined": CombinedMargin,
    "cosface": AdditiveCosine,
    "curricularface": CurricularMargin,
    "elasticface": ElasticMargin,
    "magface": MagFaceMargin,
    "normface": NoMargin,
    "sphereface": MultiplicativeAngle,
}


def margin_of(where: str, margin: Any) -> Any:
    """The margin of that name, with its usual numbers; what is none is a margin already."""
    if not isinstance(margin, str):
        return margin
    if margin not in MARGINS:
        raise ValueError(f"{where}: margin must be one of {', '.join(MARGINS)}, got {margin!r}")
    return MARGINS[margin]()
