"""Sensitivity curves as a report reads them: what pruning each group alone costs."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunegraph.coupling.branches import PREFIX
from prunegraph.errors import MALFORMED, DataError

FORMAT = "prunegraph/sensitivity@1"


@dataclass(frozen=True)
class ErrorPoint:
    """Error with a share `ratio` of a group's channels removed, and the whole model's MACs then."""

    ratio: float
    macs: int
    error: float


@dataclass(frozen=True)
class ErrorCurve:
    """Points of one group by rising ratio."""

    group: str
    layers: tuple[str, ...]
    points: tuple[ErrorPoint, ...]

    @property
    def mean(self) -> float:
        """Mean error: what curves are ranked by."""
        return sum(point.error for point in self.points) / len(self.points)


@dataclass(frozen=True)
class SensitivityCurves:
    """`metric` says what the error is; the curves are sorted, most sensitive group first."""

    metric: str
    curves: tuple[ErrorCurve, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Every ratio that some curve has, rising."""
        return tuple(
            sorted({point.ratio for curve in self.curves for point in curve.points})
        )


def read(path: str | os.PathLike[str]) -> Any:
    """The content of a sensitivity file, checked. Raises DataError."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such sensitivity file") from None
    except MALFORMED as error:
        raise DataError(f"{path}: not a sensitivity file: {error}") from error
    parse(content, str(path))
    return content


def parse(content: Any, source: str = "sensitivity") -> SensitivityCurves:
    """Curves from `{"format", "metric", "groups": [{"id", "layers", "points": [{"ratio", "macs", "error"}]}]}`.

    Branches, `"branches": [{"name", "layers", "macs", "error"}]`, are curves of one point, at which all is gone.

    Raises:
        DataError: it has another shape, or a number that is none.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{source}: not a sensitivity file: its 'format' must be {FORMAT!r}"
        )
    try:
        curves = [_curve(group) for group in content["groups"]]
        curves += [_curve(_whole(each)) for each in content.get("branches", ())]
        metric = str(content["metric"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{source}: not a sensitivity file: {type(error).__name__}: {error}"
        ) from error
    ranked = sorted(
        (curve for curve in curves if curve.points), key=lambda curve: -curve.mean
    )
    return SensitivityCurves(metric, tuple(ranked))


def _whole(branch: Any) -> dict[str, Any]:
    """A branch as a group of which all goes."""
    point = {"ratio": 1.0, "macs": branch["macs"], "error": branch["error"]}
    name = PREFIX + str(branch["name"])
    return {"id": name, "layers": branch["layers"], "points": [point]}


def _curve(group: Any) -> ErrorCurve:
    points = [
        ErrorPoint(float(p["ratio"]), int(p["macs"]), float(p["error"]))
        for p in group["points"]
    ]
    for point in points:
        if not (math.isfinite(point.ratio) and math.isfinite(point.error)):
            raise ValueError(
                f"group {group['id']!r} has a point that is not finite: {point}"
            )
    points.sort(key=lambda point: point.ratio)
    return ErrorCurve(
        str(group["id"]), tuple(str(layer) for layer in group["layers"]), tuple(points)
    )
