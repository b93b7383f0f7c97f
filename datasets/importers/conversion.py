"""A foreign episode as one of ours: checked, cast to float32, its actions in [-1, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.checks import ACTION_TOLERANCE
from causeway.datasets.faults import DatasetError
from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    Notes,
    check_length,
    count,
    refused,
)

REAL_KINDS = "fiub"  # floats, integers and booleans


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionConfig:
    """What the episodes must be, and what may be done to make them so."""

    layout: RowLayout
    horizon: int  # most env steps of an episode
    action_bound: float = 1.0  # the file's actions lie in [-bound, bound] and are divided by it
    clip_actions: bool = False  # cuts those beyond it, instead of refusing them
    allow_gaps: bool = False  # within an episode, between a next observation and the following

    def __post_init__(self) -> None:
        if not 0.0 < self.action_bound < float("inf"):
            raise ValueError(
                f"action_bound must be finite and above 0, got {self.action_bound}: "
                "it is the largest action of the foreign environment"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 env step, got {self.horizon}")


class Converter:
    """Converts episodes one by one, and notes what it did to them.

    Args:
        config: what they must be.
        notes: where it is noted, under `cast.<field>`, `clipped_action_values` and `gaps`.
        continuous: whether an episode with a gap is refused, unless the config allows gaps.
    """

    def __init__(self, config: ConversionConfig, notes: Notes, *, continuous: bool) -> None:
        self._config = config
        self._notes = notes
        self._refuse_gaps = continuous and not config.allow_gaps

    def convert(self, found: ForeignEpisode) -> Episode:
        """The episode in our types.

        Raises:
            DatasetError: naming the file, column and row of what is wrong.
        """
        length, layout = len(found.rows), self._config.layout
        check_length(found.file, length, self._config.horizon, row=found.rows[0])
        observation = self._numbers(found, "observation", (length, layout.observation_size))
        following = self._numbers(found, "next_observation", (length, layout.observation_size))
        self._look_for_gaps(found, observation, following)
        ends = np.zeros((2, length), bool)
        ends[:, -1] = found.terminated, found.truncated
        return Episode(
            observation=observation,
            action=self._action(found, (length, layout.action_size)),
            reward=self._numbers(found, "reward", (length,)),
            next_observation=following,
            terminated=ends[0],
            truncated=ends[1],
        )

    def _action(self, found: ForeignEpisode, shape: tuple[int, int]) -> Float32[np.ndarray, "T A"]:
        action = self._numbers(found, "action", shape) / np.float32(self._config.action_bound)
        outside = np.abs(action) > 1.0 + ACTION_TOLERANCE
        if outside.any() and not self._config.clip_actions:
            bound = self._config.action_bound
            what = f"must lie in [-{bound:g}, {bound:g}]"
            advice = (
                "give the environment's largest action as --action-bound, or cut such values off "
                "with --clip-actions"
            )
            raise _first_wrong(found, "action", outside, what, advice)
        count(self._notes, "clipped_action_values", int(outside.sum()))
        return np.clip(action, -1.0, 1.0) if outside.any() else action

    def _look_for_gaps(
        self,
        found: ForeignEpisode,
        observation: Float32[np.ndarray, "T O"],
        following: Float32[np.ndarray, "T O"],
    ) -> None:
        gaps = (following[:-1] != observation[1:]).any(axis=1)
        if gaps.any() and self._refuse_gaps:
            step = int(gaps.argmax())
            what = (
                f"must be the observation of row {found.rows[step + 1]}, the next step of its "
                "episode, but differs: the file is damaged or its rows are in another order; "
                "--allow-gaps imports it as it is"
            )
            column = found.names["next_observation"]
            raise refused(found.file, what, column=column, row=found.rows[step])
        count(self._notes, "gaps", int(gaps.sum()))

    def _numbers(
        self, found: ForeignEpisode, field: str, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "T *F"]:
        """A field as float32 of that shape, finite; a cast is noted."""
        values: np.ndarray = getattr(found, field)
        column = found.names[field]
        if values.dtype.kind not in REAL_KINDS:
            raise refused(found.file, f"must hold numbers, got {values.dtype}", column=column)
        if values.shape == (*shape, 1) and len(shape) == 1:
            values = values[:, 0]
        if values.shape != shape:
            what = f"must have shape {shape}, with the family's sizes, got {values.shape}"
            raise refused(found.file, what, column=column, row=found.rows[0])
        with np.errstate(over="ignore", invalid="ignore"):  # not finite, then, and found below
            cast = values.astype(np.float32)
        wrong = ~np.isfinite(cast)
        if wrong.any():
            raise _first_wrong(found, field, wrong, "must be finite in float32", "mend the file")
        if values.dtype != np.float32:
            self._notes[f"cast.{field}"] = f"{values.dtype} to float32"
        return cast


def _first_wrong(
    found: ForeignEpisode, field: str, wrong: Bool[np.ndarray, "T *F"], what: str, advice: str
) -> DatasetError:
    step, *feature = (int(index) for index in np.unravel_index(wrong.argmax(), wrong.shape))
    values: np.ndarray = getattr(found, field)
    got = np.ravel(values[step])[feature[0] if feature else 0].item()
    where = f" in feature {feature[0]}" if feature else ""
    return refused(
        found.file, f"{what}, got {got}{where}: {advice}",
        column=found.names[field], row=found.rows[step],
    )  # fmt: skip


def check_horizon(lengths: Mapping[int, int], horizon: int, file: str) -> None:
    """Refuses a horizon that no episode reaches, where most of them stop together before it.

    Args:
        lengths: how many episodes there are of each length, in env steps.
        horizon: that was assumed, not given.
        file: whose they are, for the error.
    """
    longest, total = max(lengths), sum(lengths.values())
    if longest < horizon and lengths[longest] >= 2 and 2 * lengths[longest] > total:
        raise refused(
            file,
            f"must have been collected with the family's horizon of {horizon} steps, but "
            f"{lengths[longest]} of {total} episodes stop at {longest}, and none goes further: "
            f"give --horizon {longest} if that was the time limit, --horizon {horizon} if not",
        )
