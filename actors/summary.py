"""A number per task, told as one: the mean over tasks with its interval."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Student's t at 97.5 %, for 1 to 30 degrees of freedom.
_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_QUANTILE = 1.95996


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The mean over tasks, and how sure it is."""

    mean: float
    ci95: float | None  # half-width of the 95 % interval of the mean; None for a single task
    per_task: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {"mean": self.mean, "ci95": self.ci95, "per_task": list(self.per_task)}


def summarise(per_task: Iterable[float] | np.ndarray) -> Summary:
    """The values' mean and its interval, by Student's t with the tasks as independent draws."""
    values = np.array([float(value) for value in per_task])
    if len(values) == 0:
        raise ValueError("a summary needs at least one task, got none")
    half_width = None
    if len(values) > 1:
        error = values.std(ddof=1) / np.sqrt(len(values))
        half_width = float(_t_quantile(len(values) - 1) * error)
    return Summary(mean=float(values.mean()), ci95=half_width, per_task=tuple(values.tolist()))


def _t_quantile(degrees: int) -> float:
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    # The first term of the Cornish-Fisher expansion: right to 1e-3 from here on.
    return _NORMAL_QUANTILE + (_NORMAL_QUANTILE**3 + _NORMAL_QUANTILE) / (4 * degrees)
