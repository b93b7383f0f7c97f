"""Exported policies: every algorithm acts and adapts as it did, with nothing but the folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from causeway.datasets.batches import Episode
from causeway.learners.algorithm import outcome_discount
from causeway.learners.exported import (
    DESCRIPTION,
    WEIGHTS,
    Description,
    ExportedPolicy,
    ExportError,
    write_policy,
)
from causeway.learners.registry import ALGORITHMS, load_algorithm

each_algorithm = pytest.mark.parametrize("name", sorted(ALGORITHMS))


def make_policy(name, seed=0):
    algorithm = load_algorithm(name)
    config = algorithm.Config()
    description = Description(
        algorithm=name,
        hyperparameters=json.loads(json.dumps(dataclasses.asdict(config))),
        observation_size=3,
        action_size=2,
        outcome_discount=outcome_discount(config),
        context_size=16,
        family="point-robot",
        split="standard",
        updates=7,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return description, algorithm(3, 2, config).policy()


def make_episode(seed=0, steps=10):
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(steps + 1, 3)).astype(np.float32)
    return Episode(
        observation=path[:-1],
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        next_observation=path[1:],
        reward=rng.normal(size=steps).astype(np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )


@pytest.fixture
def exported(tmp_path):
    description, policy = make_policy("smac")
    write_policy(tmp_path / "policy", description, policy.state_dict())
    return tmp_path / "policy"


@each_algorithm
def test_it_acts_and_adapts_as_the_policy_that_was_exported(name, tmp_path):
    description, policy = make_policy(name)
    write_policy(tmp_path / "policy", description, policy.state_dict())
    loaded = ExportedPolicy.load(tmp_path / "policy", seed=5)
    assert loaded.description == description
    episode, generator = make_episode(), torch.Generator()
    generator.manual_seed(5)
    observations = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3)).astype("f4"))

    def compare(belief):
        latent = policy.draw(belief, generator)
        with torch.no_grad():
            for one in observations:
                expected = policy.act(one[None], latent, None)[0].numpy()
                action = loaded.act(one.numpy())
                assert action.shape == (2,)
                np.testing.assert_array_equal(action, expected)

    rows = torch.from_numpy(description.layout.pack(episode))[None]
    with torch.no_grad():
        compare(policy.prior(1))
        loaded.adapt(episode)
        compare(policy.adapt(description.layout.context(rows)))
        loaded.reset()
        compare(policy.prior(1))


def test_all_episodes_of_a_task_count_and_a_reset_forgets_them(exported):
    loaded = ExportedPolicy.load(exported)
    watched = []
    adapt = loaded._policy.adapt
    loaded._policy.adapt = lambda context: watched.append(context) or adapt(context)
    loaded.adapt(make_episode(0, steps=4))
    loaded.adapt(make_episode(1, steps=5))
    loaded.adapt(make_episode(2, steps=30))
    loaded.reset()
    loaded.adapt(make_episode(3, steps=2))
    assert [context.mask.shape[1] for context in watched] == [4, 9, 16, 2]  # 16 at most
    assert all(context.mask.all() for context in watched)
    np.testing.assert_array_equal(watched[3].reward[0], make_episode(3, steps=2).reward)


def test_equal_seeds_act_alike_and_other_draws_do_not(exported):
    observation = np.ones(3)
    first, second, other = (ExportedPolicy.load(exported, seed=seed) for seed in (1, 1, 2))
    assert (first.act(observation) == second.act(observation)).all()
    assert (first.act(observation) == first.act(observation)).all()
    assert (first.act(observation) != other.act(observation)).any()
    before = first.act(observation)
    first.reset()
    assert (first.act(observation) != before).any()


@pytest.mark.parametrize(
    ("observation", "message"),
    [(np.zeros(2), r"shape \(3,\), got \(2,\)"), (np.zeros((1, 3)), "one observation at a time")],
)
def test_what_is_not_one_observation_is_refused(exported, observation, message):
    with pytest.raises(ValueError, match=message):
        ExportedPolicy.load(exported).act(observation)


def test_an_episode_without_steps_or_of_another_robot_is_refused(exported):
    loaded = ExportedPolicy.load(exported)
    episode = make_episode()
    with pytest.raises(ValueError, match="at least one step"):
        loaded.adapt(make_episode(steps=0))
    narrow = {name: getattr(episode, name)[:, :2] for name in ("observation", "next_observation")}
    with pytest.raises(ValueError, match=r"observations of 3 numbers .* \(2,\) and \(2,\)"):
        loaded.adapt(dataclasses.replace(episode, **narrow))


def test_a_folder_with_something_in_it_is_left_alone(exported):
    description, policy = make_policy("smac", seed=1)
    before = (exported / WEIGHTS).read_bytes()
    with pytest.raises(ExportError, match="must be empty or not be there"):
        write_policy(exported, description, policy.state_dict())
    assert (exported / WEIGHTS).read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(exported):
    description, policy = make_policy("smac")
    with pytest.raises(ExportError, match=r"policy\.json.* must take the policy"):
        write_policy(exported / DESCRIPTION / "within", description, policy.state_dict())


def change(**values):
    def apply(folder):
        given = json.loads((folder / DESCRIPTION).read_text())
        (folder / DESCRIPTION).write_text(json.dumps(given | values))

    return apply


def cut_off(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / DESCRIPTION).unlink(), "must hold an exported policy"),
        (lambda folder: (folder / WEIGHTS).unlink(), "must hold an exported policy"),
        (cut_off(DESCRIPTION), "must hold an exported policy"),
        (cut_off(WEIGHTS), "must hold an exported policy"),
        (change(format=2), "must be of format 1"),
        (change(algorithm="smak"), "smac"),
        (change(colour="red"), "as this version knows it"),
        (change(observation_size="x"), "as this version knows it"),
        (change(observation_size=4), "as this version knows it"),
        (change(hyperparameters={"latent_dims": 5}), "as this version knows it"),
        (change(hyperparameters={"latent_dim": -1}), "latent_dim"),
    ],
)
def test_a_damaged_or_alien_policy_is_refused_by_name(exported, damage, message):
    damage(exported)
    with pytest.raises(ExportError, match=message) as caught:
        ExportedPolicy.load(exported)
    assert str(exported) in str(caught.value)
