"""How adaptation data is gathered, by name, and how rows become the context of a belief.

    offline        the context is labelled transitions from the task's own logs
    online_prior   episodes act on z ~ prior; then all they saw, with true rewards, is the context

The gap between returns under the two is the shift that self-supervision exists to close, so a
result always says which of them it was measured under.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from causeway.datasets.batches import ContextBatch, RowLayout

Rows = Float32[np.ndarray, "_ W"]  # how many there are may differ between two of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where one run of adaptation stands before an episode begins."""

    episode: int  # how many came before it
    prior_episodes: int  # how many are to act on the prior, where a protocol has such
    offline: Rows | None  # labelled transitions from the task's logs, where some were given
    gathered: Rows  # what the episodes before saw, with true rewards; may be empty


Protocol = Callable[[Moment], Rows | None]
"""Gives the context that an episode acts on, or None where it acts on the prior."""


def offline(moment: Moment) -> Rows | None:
    """The task's logs, for every episode alike."""
    if moment.offline is None or len(moment.offline) == 0:
        raise ValueError(
            "the protocol 'offline' needs labelled transitions of every task it evaluates, "
            "one had none: give offline_contexts for all of them, or use 'online_prior'"
        )
    return moment.offline


def online_prior(moment: Moment) -> Rows | None:
    """Nothing for the first `prior_episodes`, then all that the run has gathered so far."""
    return None if moment.episode < moment.prior_episodes else moment.gathered


_PROTOCOLS: dict[str, Protocol] = {"offline": offline, "online_prior": online_prior}


def protocols() -> tuple[str, ...]:
    """The names of the protocols."""
    return tuple(_PROTOCOLS)


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(_PROTOCOLS)}, got {name!r}")
    return _PROTOCOLS[name]


def subsample(rows: Rows, size: int | None, generator: np.random.Generator) -> Rows:
    """At most `size` different rows, every one as likely as another; all of them for None.

    A product of Gaussians narrows with every transition, so a context larger than those of training
    gives a belief that is surer than it should be.
    """
    if size is None or len(rows) <= size:
        return rows
    return rows[generator.choice(len(rows), size, replace=False)]


def stack_contexts(rows: Sequence[Rows], layout: RowLayout) -> ContextBatch:
    """One context per entry, [N, K], padded to the longest; the mask leaves the padding out."""
    longest = max(len(one) for one in rows)
    stacked = np.zeros((len(rows), longest, layout.width), np.float32)
    mask = np.zeros((len(rows), longest), bool)
    for n, one in enumerate(rows):
        if len(one) == 0 or one.shape[1:] != (layout.width,):
            raise ValueError(
                f"a context must have rows of width {layout.width} and at least one of them, "
                f"got shape {one.shape} at index {n}"
            )
        stacked[n, : len(one)] = one
        mask[n, : len(one)] = True
    return layout.context(torch.from_numpy(stacked), torch.from_numpy(mask))
