"""How adaptation data is gathered, by name, and how rows become the context of a belief.

    offline          the context is labelled transitions from the task's own logs
    offline_shifted  it is the same task, acted in as another task's logs were
    online_prior     episodes act on z ~ prior; then all they saw, with true rewards, is the context
    online_random    episodes act at random; then the belief follows everything seen, step by step
    online_filtered  as online_prior, but of the episodes seen only those of the best returns count

The gap between returns under the first and a later one is the shift that self-supervision exists to
close, so a result always says which of them it was measured under.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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
    shifted: Rows | None  # the task's, by the behaviour of another one, where some were gathered
    gathered: tuple[Rows, ...]  # what each episode before saw, with true rewards
    returns: tuple[float, ...]  # of these episodes
    kept_share: float  # of them that a filter keeps


def offline(moment: Moment) -> Rows | None:
    """The task's logs, for every episode alike."""
    if moment.offline is None or len(moment.offline) == 0:
        raise ValueError(
            "the protocol 'offline' needs labelled transitions of every task it evaluates, "
            "one had none: give offline_contexts for all of them, or use 'online_prior'"
        )
    return moment.offline


def offline_shifted(moment: Moment) -> Rows | None:
    """The task's transitions by another's behaviour, for every episode alike."""
    if moment.shifted is None:
        raise ValueError(
            "the protocol 'offline_shifted' needs transitions by another task's behaviour, "
            "one task had none: give offline_contexts for all tasks, and at least two of these"
        )
    return moment.shifted


def online_prior(moment: Moment) -> Rows | None:
    """Nothing for the first `prior_episodes`, then all that the run has gathered so far."""
    return None if moment.episode < moment.prior_episodes else np.concatenate(moment.gathered)


def online_filtered(moment: Moment) -> Rows | None:
    """The same, of the best episodes alone: where a return is high, the belief was near the task.

    IDAQ, Wang et al. 2023 (arXiv:2305.19529), whose quantifier by return this is: episodes that a
    policy from logs acts badly in are unlike what its belief was trained on.
    """
    if moment.episode < moment.prior_episodes:
        return None
    count = max(1, round(moment.kept_share * len(moment.gathered)))
    best = sorted(np.argsort(moment.returns, kind="stable")[-count:])
    return np.concatenate([moment.gathered[index] for index in best])


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How adaptation data is gathered.

    Fields:
        context: what an episode acts on, or None where nothing is to be known yet.
        explores: how an episode acts on which nothing is known.
        belief_per: whether the belief stands still in an episode or follows its every step.
    """

    context: Callable[[Moment], Rows | None]
    explores: Literal["prior", "random"] = "prior"
    belief_per: Literal["episode", "step"] = "episode"


_PROTOCOLS: dict[str, Protocol] = {
    "offline": Protocol(context=offline),
    "offline_shifted": Protocol(context=offline_shifted),
    "online_prior": Protocol(context=online_prior),
    # CSRO, Gao et al. 2023 (arXiv:2311.03695), sec. 4.3: no behaviour of its own biases the start.
    "online_random": Protocol(context=online_prior, explores="random", belief_per="step"),
    "online_filtered": Protocol(context=online_filtered),
}


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
