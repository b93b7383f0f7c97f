"""What families over MuJoCo robots share: their simulators, and the pieces of their rewards."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64

from causeway.actors.robots import Robot, load_model
from causeway.actors.simulator import Simulator

HORIZON = 200  # environment steps, as in PEARL, MACAW and SMAC
TASK_SEED = 1337


def simulate_alike(
    robot: type[Robot],
    tasks_dynamics: Sequence[Mapping[str, float]],
    *,
    ends_when_fallen: bool,
    threads: int,
) -> Simulator:
    """One robot per entry for a family whose tasks move alike, so that entries must be empty."""
    given = sorted({name for parameters in tasks_dynamics for name in parameters})
    if given:
        raise ValueError(
            f"{robot.__name__} has no dynamics parameters in this family, got {', '.join(given)}: "
            "give an empty mapping for each environment"
        )
    return Simulator(
        robot,
        [load_model(robot)] * len(tasks_dynamics),
        horizon=HORIZON,
        ends_when_fallen=ends_when_fallen,
        threads=threads,
    )


def parameter(
    task_rewards: Sequence[Mapping[str, float]], name: str, like: Float[np.ndarray, "N *rest"]
) -> Float64[np.ndarray, "N *ones"]:
    """One reward parameter of N tasks, shaped to go with an array [N, ...]."""
    values = np.array([parameters[name] for parameters in task_rewards], np.float64)
    return values.reshape(-1, *[1] * (like.ndim - 1))


def control_cost(
    weight: float, action: Float[np.ndarray, "*rest A"]
) -> Float64[np.ndarray, "*rest"]:
    """The cost of effort: weight * sum a^2."""
    return np.asarray(weight * np.einsum("...a,...a->...", action, action, dtype=np.float64))
