"""A trained policy on its own: for one task after the other, without a run, Ray or a simulator.

    policy = ExportedPolicy.load("policy")
    policy.reset()  # for a new task
    episode = play(policy.act)  # the caller's own environment; its rewards tell the task
    policy.adapt(episode)  # from here on it acts for this task

`causeway export` writes what is loaded here: networks as safetensors, and all else as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
import torch
from cattrs.v import format_exception
from jaxtyping import Float32
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.draws import subsample
from causeway.datasets.policy import AdaptivePolicy, reads_in_order
from causeway.learners.registry import load_algorithm

FORMAT = 1
DESCRIPTION, WEIGHTS = "policy.json", "policy.safetensors"


class ExportError(Exception):
    """What is not, or cannot become, an exported policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a policy is, but for its weights."""

    algorithm: str  # by its name, or module:Class
    hyperparameters: dict[str, Any]
    observation_size: int
    action_size: int
    outcome_discount: float | None  # of the returns that contexts tell, where the method reads any
    context_size: int | None  # of the most transitions that a belief is inferred from
    family: str  # of the tasks that it was trained on
    split: str
    updates: int  # of its training

    @property
    def layout(self) -> RowLayout:
        """How its transitions lie in rows."""
        return RowLayout(self.observation_size, self.action_size, self.outcome_discount)


def write_policy(folder: Path, description: Description, weights: Mapping[str, Tensor]) -> None:
    """Writes a policy into a new folder, or an empty one.

    Raises:
        ExportError: there is something in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExportError(f"{folder} must be empty or not be there, it holds files: delete it")
        (folder / WEIGHTS).write_bytes(save({n: t.contiguous() for n, t in weights.items()}))
        text = json.dumps({"format": FORMAT, **asdict(description)}, indent=1)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")  # last: it is whole now
    except OSError as error:
        raise ExportError(f"{folder} must take the policy, but {error}") from error


class ExportedPolicy:
    """Acts in one task at a time, and adapts to it. Actions lie in [-1, 1].

    Args:
        description: what it is.
        policy: the networks.
        seed: of the latents that are drawn.
    """

    def __init__(self, description: Description, policy: AdaptivePolicy, seed: int) -> None:
        self.description = description
        self._layout, self._policy = description.layout, policy
        self._torch, self._numpy = torch.Generator(), np.random.default_rng(seed)
        self._torch.manual_seed(seed)
        self.reset()

    @classmethod
    def load(cls, folder: str | Path, *, seed: int = 0) -> "ExportedPolicy":
        """The policy in a folder that `causeway export` wrote.

        Raises:
            ExportError: it holds none, or one that this version cannot read.
        """
        folder = Path(folder)
        try:
            given = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ExportError(
                f"{folder} must hold an exported policy, {DESCRIPTION} and {WEIGHTS}, but {error}"
            ) from error
        if not isinstance(given, dict) or given.pop("format", None) != FORMAT:
            raise ExportError(
                f"{folder / DESCRIPTION} must be of format {FORMAT}: another version of causeway "
                "wrote it; export it again"
            )
        converter = cattrs.Converter(forbid_extra_keys=True)
        try:
            description = converter.structure(given, Description)
            algorithm = load_algorithm(description.algorithm)
            config = converter.structure(description.hyperparameters, algorithm.Config)
            o, a = description.observation_size, description.action_size
            with torch.random.fork_rng(devices=[]):  # fresh networks draw their weights
                policy: AdaptivePolicy = algorithm(o, a, config).policy()
            policy.load_state_dict(weights)
        except (cattrs.BaseValidationError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"{folder} must hold a policy as this version knows it, but {_told(error)}: export "
                "it again with this version"
            ) from error
        return cls(description, policy, seed)

    def reset(self) -> None:
        """Forgets the task: acts on what it knew before any, by another draw each time."""
        self._rows = np.empty((0, self._layout.width), np.float32)
        self._draw()

    def adapt(self, episode: Episode) -> None:
        """Takes in a whole episode of the task, with its rewards; acts on all of them from here on.

        Raises:
            ValueError: it has no steps, or is of another robot.
        """
        o, a = self.description.observation_size, self.description.action_size
        sizes = (episode.observation.shape[1:], episode.action.shape[1:])
        if len(episode) == 0 or sizes != ((o,), (a,)):
            raise ValueError(
                f"an episode must have at least one step, observations of {o} numbers and actions "
                f"of {a}, got {len(episode)} steps of shapes {sizes[0]} and {sizes[1]}"
            )
        self._rows = np.concatenate([self._rows, self._layout.pack(episode)])
        self._draw()

    @torch.no_grad()
    def act(self, observation: ArrayLike) -> Float32[np.ndarray, "A"]:
        """The action [A] for an observation [O]; always the same between two calls of the others.

        Raises:
            ValueError: it is not one observation.
        """
        given = torch.tensor(np.asarray(observation, np.float32))
        if given.shape != (self.description.observation_size,):
            raise ValueError(
                f"observation must have shape ({self.description.observation_size},), "
                f"got {tuple(given.shape)}: give one observation at a time"
            )
        action: np.ndarray = self._policy.act(given[None], self._latent, None)[0].numpy()
        return action

    @torch.no_grad()
    def _draw(self) -> None:
        """Infers the belief from what it has seen of the task, and draws a latent."""
        if len(self._rows) == 0:
            belief = self._policy.prior(1)
        else:
            rows = subsample(
                self._rows,
                self.description.context_size,
                self._numpy,
                in_order=reads_in_order(self._policy),
            )
            belief = self._policy.adapt(self._layout.context(torch.tensor(rows)[None]))
        self._latent = self._policy.draw(belief, self._torch)


def _told(error: Exception) -> str:
    """What is wrong, in a line: cattrs gathers its faults in a group."""
    if not isinstance(error, cattrs.BaseValidationError):
        return str(error)

    def format_one(fault: BaseException, kind: type | None) -> str:
        own = isinstance(fault, ValueError)  # of the hyperparameters, which say it best
        return str(fault) if own else format_exception(fault, kind)

    return "; ".join(cattrs.transform_error(error, format_exception=format_one))
