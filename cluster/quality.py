"""Cuts of a lifetime by the agent's age: which of its episodes become a data set."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

Quality = Literal["random", "start", "middle", "end", "replay", "others", "expert"]

# The part of the lifetime, in thirds of its updates, that an episode's age must fall into.
_THIRDS: dict[str, tuple[float, float]] = {
    "start": (0.0, 1.0),
    "middle": (1.0, 2.0),
    "end": (2.0, 3.0),
    "replay": (0.0, 3.0),
    "others": (0.0, 3.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """So many transitions of each task, of one quality.

    - `random`: the lifetime's first episodes, by the untrained agent or nearly so.
    - `start`, `middle`, `end`: episodes spread evenly over a third of the agent's updates.
    - `replay`: spread evenly over its whole lifetime.
    - `others`: the same, of episodes gathered in other tasks and rewarded anew for this one.
    - `expert`: fresh episodes of the final agent, without its noise.
    """

    quality: Quality
    transitions: int  # of each task, rounded up to whole episodes

    def __post_init__(self) -> None:
        if self.quality not in get_args(Quality):
            raise ValueError(
                f"quality must be one of {', '.join(get_args(Quality))}, got {self.quality!r}; "
                "several go together as random:1200,end:400, with the transitions of each"
            )
        if self.transitions < 1:
            raise ValueError(
                f"quality {self.quality!r} must have at least 1 transition per task, got "
                f"{self.transitions}"
            )


def parse_quality(text: str, transitions_per_task: int) -> tuple[Cut, ...]:
    """The cuts that a text names: `replay`, or `random:1200,end:400`.

    Args:
        text: qualities with commas; after a colon, the transitions per task of one of them.
        transitions_per_task: of a quality that says none itself.
    """
    cuts = []
    for word in text.split(","):
        name, colon, amount = (piece.strip() for piece in word.partition(":"))
        if colon and not amount.isdecimal():
            raise ValueError(
                f"quality {name!r} must have a whole number of transitions after the colon, such "
                f"as {name}:1200, got {amount!r}"
            )
        cuts.append(
            Cut(
                quality=name,  # type: ignore[arg-type]  # checked there
                transitions=int(amount) if colon else transitions_per_task,
            )
        )
    return tuple(cuts)


def choose(
    cut: Cut, age: Int64[np.ndarray, "J"], length: Int64[np.ndarray, "J"], lifetime: int
) -> Int64[np.ndarray, "C"]:
    """The episodes of one task that the cut takes, the youngest agent's first.

    Args:
        cut: what is wanted; `expert` takes of the final agent's episodes alone.
        age: each episode's, in updates; of equally old ones the first ones given come first.
        length: each episode's steps.
        lifetime: the agent's updates in all.

    Raises:
        ValueError: the lifetime has fewer such transitions.
    """
    candidates = np.argsort(age, kind="stable")
    in_order = cut.quality in ("random", "expert")
    if not in_order:
        low, high = _THIRDS[cut.quality]
        third = 3 * age[candidates] / max(1, lifetime)
        candidates = candidates[(third >= low) & ((third < high) | (high == 3.0))]
    steps = length[candidates]
    if (have := int(steps.sum())) < cut.transitions:
        raise ValueError(
            f"quality {cut.quality!r} must have {cut.transitions:,} transitions of each task, the "
            f"lifetime has {have:,} of one: ask for fewer, or give the lifetime more rounds"
        )
    if in_order:
        enough = int(np.searchsorted(np.cumsum(steps), cut.transitions)) + 1
        return candidates[:enough]
    count = max(1, int(cut.transitions / steps.mean()))
    while steps[places := _spread(len(steps), count)].sum() < cut.transitions:
        count += 1
    chosen: np.ndarray = candidates[places]
    return chosen


def _spread(size: int, count: int) -> Int64[np.ndarray, "C"]:
    """`count` of `size` places, evenly, each in the middle of its stretch."""
    places: np.ndarray = (np.arange(count) + 0.5) * size / count
    return places.astype(np.int64)
