"""Who plays the rounds of a lifetime: this process, or Ray actors beside each other.

The environments of a round are dealt into groups, always the same ones, and every draw of a group
comes from a key of its own. So a round is the same, bit for bit, whoever plays which group.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from causeway.actors.rollout import Generators
from causeway.actors.rounds import Act, Round, RoundPlayer
from causeway.actors.tasks.encoding import encode_tasks
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.learners.conditioned_sac import ConditionedPolicy

GROUP_ENVS = (
    40  # environments of one group at most: enough for vectorised steps, few enough to deal
)

Manner = Literal["random", "stochastic", "deterministic"]
_MANNERS: tuple[Manner, ...] = ("random", "stochastic", "deterministic")
Play = Callable[[Mapping[str, Tensor], Manner, int], Round]


@dataclass(frozen=True, kw_only=True)
class Casting:
    """What is played, and by how large an agent."""

    family: str
    split: str
    envs_per_task: int
    hidden: tuple[int, ...]
    threads: int  # of each group's simulator
    seed: int

    @property
    def num_groups(self) -> int:
        """Into how many groups the environments of all tasks are dealt."""
        tasks = find_split(load_family(self.family), self.split).tasks
        return -(-len(tasks) * self.envs_per_task // GROUP_ENVS)


class GroupPlayers:
    """Plays some of the groups, in one process.

    Args:
        casting: what is played.
        groups: which of its groups, by number.
    """

    def __init__(self, casting: Casting, groups: Sequence[int]) -> None:
        family = load_family(casting.family)
        tasks = find_split(family, casting.split).tasks
        conditions = torch.from_numpy(encode_tasks(tasks))
        # Every group gets environments of tasks from all over the split.
        dealt = [i for i in range(len(tasks)) for _ in range(casting.envs_per_task)]
        self._seed, self._action_size = casting.seed, family.action_size
        self._policy = ConditionedPolicy(
            family.observation_size, family.action_size, conditions.shape[1], casting.hidden
        )
        self._players = {}
        for group in groups:
            places = dealt[group :: casting.num_groups]
            player = RoundPlayer(
                family, [tasks[i] for i in places], places, threads=casting.threads
            )
            self._players[group] = (player, conditions[places])

    def play(self, weights: Mapping[str, Tensor], manner: Manner, number: int) -> list[Round]:
        """A round of every group.

        Args:
            weights: the policy's.
            manner: whether actions are uniform, drawn from the policy, or its deterministic choice.
            number: of the round; with the manner and the seed it decides every draw.
        """
        self._policy.load_state_dict(weights)
        rounds = []
        for group, (player, condition) in self._players.items():
            key = (self._seed, _MANNERS.index(manner), number, group)
            generators = Generators.from_key(*key)
            with torch.inference_mode():
                act = self._actions(condition, manner, generators)
                rounds.append(player.play(act, generators.numpy))
        return rounds

    def _actions(self, condition: Tensor, manner: Manner, generators: Generators) -> Act:
        if manner == "random":
            size = (len(condition), self._action_size)
            return lambda observation: generators.numpy.uniform(-1.0, 1.0, size)
        generator = generators.torch if manner == "stochastic" else None

        def act(observation: np.ndarray) -> np.ndarray:
            action: np.ndarray = self._policy.act(
                torch.from_numpy(observation), condition, generator
            ).numpy()
            return action

        return act


def local_players(casting: Casting) -> Play:
    """All groups, one after the other in this process."""
    players = GroupPlayers(casting, range(casting.num_groups))

    def play(weights: Mapping[str, Tensor], manner: Manner, number: int) -> Round:
        return Round.concatenate(players.play(weights, manner, number))

    return play


def ray_players(casting: Casting, workers: int) -> Play:
    """The groups dealt to Ray actors, at most `workers`; Ray must run. A dead one is replaced."""
    import ray

    actor: Any = ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)(GroupPlayers)
    groups = range(casting.num_groups)
    hands = [h for h in (list(groups[i::workers]) for i in range(workers)) if h]
    handles = [actor.remote(casting, hand) for hand in hands]

    def play(weights: Mapping[str, Tensor], manner: Manner, number: int) -> Round:
        reference = ray.put(dict(weights))
        answers = ray.get([h.play.remote(reference, manner, number) for h in handles])
        by_group = dict(zip(itertools.chain(*hands), itertools.chain(*answers), strict=True))
        return Round.concatenate([by_group[group] for group in groups])

    return play
