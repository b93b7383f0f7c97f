"""Environment steps: the batched simulator against gymnasium's SyncVectorEnv and envpool.

Observations, rewards, ends and restarts are included on all sides; actions are random, drawn
beforehand. Peers run with MuJoCo's profiling timer as their libraries leave it. With one thread,
figures count seconds of the processor, so that other work on the machine does not decide them;
with two they count seconds of the clock.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from causeway.actors.mujoco_process import disable_profiling, prepare_process, restore_profiling
from causeway.actors.tasks.registry import load_family
from causeway.actors.vector_env import FamilyVectorEnv
from tests.benchmarks.harness import Options, Row, interleaved, timed

Play = Callable[[np.ndarray], Any]  # one step of every environment

NUM_ENVS = 64
HORIZON = 200  # of all sides
VECTOR_STEPS = 50  # in a measurement
ROUNDS = 9

# Robot: the family that it is taken from, options of gymnasium's environment that make it observe
# what ours does, and how many times as fast as SyncVectorEnv one thread of ours is to be.
ROBOTS: Mapping[str, tuple[str, dict[str, Any], float]] = {
    "HalfCheetah": ("cheetah-vel", {}, 1.9),
    "Hopper": ("hopper-params", {}, 2.0),
    "Walker2d": ("walker-params", {}, 1.6),
    "Ant": ("ant-dir", {"include_cfrc_ext_in_observation": False}, 1.55),
}
TWO_THREADS_TARGET = 2.8


def run(options: Options) -> Iterator[Row]:
    """All rows."""
    prepare_process()
    for robot in ROBOTS:
        yield from robot_rows(robot, options)


def robot_rows(robot: str, options: Options) -> Iterator[Row]:
    """One robot, with one thread and with two, against SyncVectorEnv and envpool."""
    family, peer_options, target = ROBOTS[robot]
    for threads, unit, clock, wanted in (
        (1, "environment steps per CPU-second", time.process_time, target),
        (2, "environment steps/s", time.perf_counter, TWO_THREADS_TARGET),
    ):
        sides = {"ours": ours(family, threads)}
        sides["SyncVectorEnv"] = gymnasiums(f"{robot}-v5", peer_options)
        why_not = ""
        try:
            sides["envpool"] = envpools(f"{robot}-v5", peer_options, threads)
        except ImportError as error:
            why_not = f"envpool cannot be imported: {error}"
        rates = measured(sides, load_family(family).action_size, clock, options)
        for peer, at_least in (("SyncVectorEnv", wanted), ("envpool", 1.0)):
            case = f"{robot}, {threads} thread{'s' * (threads > 1)}; {peer}"
            if peer not in rates:
                yield Row.unmeasured(case, target=at_least, unit=unit, why=why_not)
                continue
            figures = {"ours": rates["ours"], "theirs": rates[peer]}
            yield Row.rates(case, **figures, target=at_least, unit=unit)


def measured(
    sides: Mapping[str, Play], action_size: int, clock: Callable[[], float], options: Options
) -> dict[str, float]:
    """Environment steps per second of the clock."""
    drawn = np.random.default_rng(0).uniform(-1.0, 1.0, (VECTOR_STEPS, NUM_ENVS, action_size))
    actions = drawn.astype(np.float32)
    measures = [
        timed(partial(play, step, actions, is_ours=name == "ours"), clock)
        for name, step in sides.items()
    ]
    seconds = interleaved(*measures, rounds=options.scaled(ROUNDS))
    return {name: VECTOR_STEPS * NUM_ENVS / each for name, each in zip(sides, seconds, strict=True)}


def play(step: Play, actions: np.ndarray, *, is_ours: bool) -> None:
    """Takes the steps; MuJoCo's timer is off for ours and on for others."""
    if is_ours:
        disable_profiling()
    else:
        restore_profiling()
    for action in actions:
        step(action)


def ours(name: str, threads: int) -> Play:
    """Steps of a family's first tasks; where tasks are bodies, of the robot's own body."""
    family = load_family(name)
    tasks = next(iter(family.splits().values())).train
    tasks = tuple(tasks[n % len(tasks)] for n in range(NUM_ENVS))
    dynamics = family.dynamics([{}] * NUM_ENVS, threads=threads)
    vector = FamilyVectorEnv(family, tasks, dynamics)
    vector.reset(seed=0)
    return vector.step


def gymnasiums(environment: str, options: Mapping[str, Any]) -> Play:
    """Steps of gymnasium's vector environment, as its users have it by default."""
    vector = SyncVectorEnv(
        [
            lambda: gymnasium.make(environment, max_episode_steps=HORIZON, **options)
            for _ in range(NUM_ENVS)
        ]
    )
    vector.reset(seed=0)
    return vector.step


def envpools(environment: str, options: Mapping[str, Any], threads: int) -> Play:
    """Steps of envpool in its synchronous mode.

    Raises:
        ImportError: it is not installed.
    """
    import envpool

    given = {"use_contact_force": False} if options else {}
    vector = envpool.make(
        environment,
        env_type="gymnasium",
        num_envs=NUM_ENVS,
        num_threads=threads,
        max_episode_steps=HORIZON,
        seed=0,
        **given,
    )
    vector.reset()
    return vector.step
