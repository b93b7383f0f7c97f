"""Broken variants of SMAC that a learning test must tell from the real one."""

import dataclasses

import torch

from causeway.datasets.batches import Outcomes
from causeway.learners.smac import Smac, SmacPolicy


class NoisyLabels(SmacPolicy):
    """Labels with noise of the decoder's own mean and spread: all of its information is gone."""

    @torch.no_grad()
    def label(self, context, observation, action, next_observation, generator):
        reward = super().label(context, observation, action, next_observation, generator)
        noise = torch.randn(reward.shape, generator=generator, device=reward.device)
        return reward.mean() + reward.std() * noise


class NoisyLabelSmac(Smac):
    """SMAC whose online stage trains on noise; its offline stage is untouched."""

    def policy(self):
        sound = super().policy()
        return NoisyLabels(sound.encoder, sound.decoder, sound.actor, self.config)


class ShuffledContexts:
    """A policy that adapts to the context of another task: the next one in the batch."""

    def __init__(self, policy, runs_per_task):
        self._policy, self._shift = policy, runs_per_task

    def __getattr__(self, name):
        return getattr(self._policy, name)

    def adapt(self, context):
        return self._policy.adapt(_rolled(context, self._shift))


def _rolled(batch, shift):
    """The batch with every task's rows at another task's place."""
    moved = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Outcomes):
            value = _rolled(value, shift)
        elif value is not None:
            value = value.roll(shift, 0)
        moved[field.name] = value
    return type(batch)(**moved)
