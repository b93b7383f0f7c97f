"""Short seeded trainings of context-based methods on point robots, and what is asked of them."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch

from causeway.actors.contexts import stack_contexts
from causeway.actors.evaluator import evaluate
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import load_checkpoint
from causeway.cluster.collect_data import collect_data, has_data
from causeway.cluster.config import load_run_config, save_run_config
from causeway.cluster.learner import LearnerService
from causeway.cluster.recorder import Recorder
from causeway.cluster.serial import SerialRun
from causeway.cluster.streams import open_data, row_cache
from tests.controls import ShuffledContexts

RUNS = Path(__file__).resolve().parents[2] / "deploy" / "runs"


@cache
def data_in(folder):
    """The data set of the main job, made once."""
    config = load_run_config(None, [f"--data.path={folder}/data"])
    if not has_data(config.data.path):
        collect_data(config.data, overwrite=False, progress=lambda done, total: None)


def configure(name, folder, seed, *more):
    """The method's own run file, in `folder`, in one process and evaluated at its stages' ends."""
    data_in(folder)
    return load_run_config(
        RUNS / f"{name}-point-robot.yaml",
        [
            f"--run.folder={folder / 'runs'}",
            f"--run.seed={seed}",
            f"--data.path={folder / 'data'}",
            f"--data.cache_folder={folder / 'cache'}",
            "--run.serial=true",
            "--schedule.evaluate_every=1000000",
            "--schedule.checkpoint_every=1000000",
            *more,
        ],
    )


class Trained:
    """A finished run: its results, its policy and its data."""

    def __init__(self, config):
        save_run_config(config, config.folder)
        recorder = Recorder(config, config.folder, None)
        run = SerialRun(config, config.folder, recorder, None)
        try:
            assert run.run(lambda: False)
            self.results = run.results()
        finally:
            run.close()
            recorder.close()
        self.config = config
        self.family = load_family(config.data.family)
        self.split = find_split(self.family, config.data.split)
        self.store = open_data(config)
        learner = LearnerService(config, self.store.layout)
        learner.load(load_checkpoint(max((config.folder / "checkpoints").glob("update-*"))))
        self.algorithm = learner._trainer.algorithm
        self.policy = self.algorithm.policy()

    def score(self, stage, name):
        """A return on the scale from random actions (0) to the exact optimum (1)."""
        floor, best = (self.results[f"{k}_return"]["mean"] for k in ("random", "oracle"))
        return (self.results[stage][name]["mean"] - floor) / (best - floor)

    def evaluated(self, policy, protocol, **changes):
        """The score of a policy's last and first episodes under a protocol."""
        cache_, config = row_cache(self.config), self.config
        evaluation = evaluate(
            policy,
            self.family,
            self.split.test,
            layout=self.store.layout,
            protocol=protocol,
            config=dataclasses.replace(config.evaluation, **changes),
            seed=config.run.seed,
            offline_contexts={t.id: cache_.rows(self.store, t.id) for t in self.split.test},
        )
        floor, best = (self.results[f"{k}_return"]["mean"] for k in ("random", "oracle"))
        return [
            (evaluation.episode_return(episode).mean - floor) / (best - floor)
            for episode in (0, -1)
        ]

    def score_with_shuffled_contexts(self):
        """The score where each task is given the context of another."""
        shuffled = ShuffledContexts(self.policy, 3 * self.config.evaluation.repeats)
        return self.evaluated(shuffled, "offline")[-1]

    def probe(self, belief_of=None):
        """How well a goal is read off a belief by a linear map: R^2 on held-out tasks.

        Args:
            belief_of: the belief [N, ...] of a context; None takes the policy's mean latent.
        """
        belief_of = self._mean_latent if belief_of is None else belief_of
        rng = np.random.default_rng(0)
        train, test = (
            self._beliefs(tasks, belief_of, rng) for tasks in (self.split.train, self.split.test)
        )
        x = np.column_stack([train[0], np.ones(len(train[0]))])
        weights = np.linalg.lstsq(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ train[1], None)[0]
        predicted = np.column_stack([test[0], np.ones(len(test[0]))]) @ weights
        error = ((predicted - test[1]) ** 2).sum()
        return 1.0 - error / ((test[1] - test[1].mean(0)) ** 2).sum()

    def _beliefs(self, tasks, belief_of, rng, repeats=8):
        rows, goals = [], []
        size, horizon = self.config.sampler.context_per_task, self.family.horizon
        for task in tasks:
            every = row_cache(self.config).rows(self.store, task.id)
            for _ in range(repeats):
                first = horizon * int(rng.integers((len(every) - size) // horizon))
                rows.append(np.asarray(every[first : first + size]))
                goals.append([task.reward["goal_x"], task.reward["goal_y"]])
        with torch.no_grad():
            belief = belief_of(stack_contexts(rows, self.store.layout))
        return belief.numpy().astype(np.float64), np.array(goals)

    def _mean_latent(self, context):
        belief = self.policy.adapt(context)
        return belief[:, 0] if belief.ndim == 3 else belief[:, 1:]
