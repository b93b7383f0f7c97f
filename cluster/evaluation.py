"""The evaluation service: held-out tasks under each protocol, on weights it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causeway.actors.evaluator import (
    Evaluation,
    context_shift,
    evaluate,
    optimal_return,
    random_return,
)
from causeway.actors.summary import Summary, summarise
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import RunConfig
from causeway.cluster.labelling import label_error
from causeway.cluster.learner import make_policy
from causeway.cluster.streams import check_faults, open_data, row_cache
from causeway.datasets.faults import DatasetError

RANDOM_REPEATS = 20
LABELLED_ROWS = 256  # of each held-out task, for the error of the labels


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What the policy of one moment earns on the held-out tasks."""

    updates: int
    online: Evaluation
    offline: Evaluation
    label_error: float | None  # of the decoder on the held-out tasks' logs; None: it has none

    def returns(self) -> dict[str, Summary]:
        """The three returns by their names in `results.json`."""
        return {
            "prior_return": self.online.prior_return,
            "online_context_return": self.online.adapted_return,
            "offline_context_return": self.offline.adapted_return,
        }

    def to_json(self) -> dict[str, Any]:
        """Both protocols in full, and how far their beliefs lie apart."""
        return {
            self.online.protocol: self.online.to_json(),
            self.offline.protocol: self.offline.to_json(),
            "shift": context_shift(self.offline, self.online),
        }


class EvaluationService:
    """Holds the held-out tasks with their true rewards, and their offline contexts."""

    def __init__(self, config: RunConfig) -> None:
        torch.set_num_threads(1)
        self._config = config
        self._family = load_family(config.data.family)
        store = open_data(config)
        self._layout = store.layout
        self._references = store.manifest.references
        self._policy = make_policy(config, self._layout)
        cache = row_cache(config)
        self._contexts, self._tasks = {}, []
        for task in find_split(self._family, config.data.split).test:
            try:
                self._contexts[task.id] = cache.rows(store, task.id)
            except DatasetError:  # named among the store's faults; the other tasks go on
                continue
            self._tasks.append(task)
        check_faults(store, config)

    def __repr__(self) -> str:
        return f"Evaluator {self._config.data.family}"

    def evaluate(self, updates: int, weights: Mapping[str, Tensor]) -> EvaluationReport:
        """The weights' returns. One seed for all: policies meet the same starts and prior draws."""
        self._policy.load_state_dict(weights)
        return EvaluationReport(
            updates=updates,
            online=self._under(self._config.evaluation.online_protocol),
            offline=self._under(self._config.evaluation.offline_protocol),
            label_error=label_error(
                self._policy,
                [self._contexts[task.id] for task in self._tasks],
                self._layout,
                rows=LABELLED_ROWS,
                seed=self._config.run.seed,
            ),
        )

    def references(self) -> dict[str, Summary | None]:
        """What random actions and what knowing the task would earn.

        Where the family does not know the optimum, it is what the agent of the data set earned that
        was told the tasks' parameters, where the manifest says it for every held-out task.
        """
        config = self._config
        floor = random_return(
            self._family, self._tasks, repeats=RANDOM_REPEATS, seed=config.run.seed
        )
        return {
            "random_return": floor,
            "oracle_return": optimal_return(self._family, self._tasks) or self._expert_return(),
        }

    def _expert_return(self) -> Summary | None:
        references = [self._references.get(task.id) for task in self._tasks]
        known = [r.expert for r in references if r is not None and r.expert is not None]
        return summarise(np.array(known)) if len(known) == len(self._tasks) > 0 else None

    def _under(self, protocol: str) -> Evaluation:
        return evaluate(
            self._policy,
            self._family,
            self._tasks,
            layout=self._layout,
            protocol=protocol,
            config=self._config.evaluation,
            seed=self._config.run.seed,
            offline_contexts=self._contexts,
        )
