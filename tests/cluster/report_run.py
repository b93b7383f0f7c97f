"""Writes the files of a run that never was: numbers of a plausible shape, for tests of reports."""

import json
from pathlib import Path

import numpy as np

TASKS, REPEATS, EPISODES, HORIZON = 10, 4, 3, 20
RETURNS = {  # stage -> return of the prior, of own experience, of offline data
    "offline": (-14.5, -11.0, -7.2),
    "online": (-13.6, -7.6, -6.9),
}


def summary(values):
    values = np.asarray(values, float)
    half = 2.262 * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(), "ci95": half, "per_task": values.tolist()}


def write_run(folder: Path, *, stages=("offline", "online"), seed=0) -> Path:
    """The files of a finished run with these stages; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0.0, 1.0, TASKS)
    evaluations = {stage: _evaluation(stage, hardness, generator) for stage in stages}
    results = {
        "algorithm": "smac", "family": "point-robot", "split": "standard", "seed": seed,
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "oracle_return": summary(-5.5 + 0.4 * hardness),
        "random_return": summary(-21.0 + 0.5 * hardness),
        "updates": 8000, "env_steps": 120_000, "self_supervised_transitions": 120_000,
        "wall_seconds": 312.4,
    }  # fmt: skip
    for stage, evaluation in evaluations.items():
        own = np.array(evaluation["online_prior"]["returns"]).mean(axis=1)
        given = np.array(evaluation["offline"]["returns"]).mean(axis=1)
        results[stage] = {
            "prior_return": summary(own[:, 0]),
            "online_context_return": summary(own[:, -1]),
            "offline_context_return": summary(given[:, -1]),
        }
    curve = _curve(stages, hardness, generator)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "evaluations.json").write_text(json.dumps({"stages": evaluations, "curve": curve}))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in _metrics(stages, generator))
    )
    (folder / "config.yaml").write_text("seed: 0\nlearner:\n  discount: 0.99\n")
    return folder


def _evaluation(stage, hardness, generator):
    prior, own, offline = RETURNS[stage]
    noise = generator.normal(0.0, 0.5, (2, TASKS, REPEATS, EPISODES))
    shape = np.array([prior, prior + 0.3, own])
    angles = np.linspace(0.3, 2.9, TASKS)
    goals = [{"goal_x": float(np.cos(a)), "goal_y": float(np.sin(a))} for a in angles]
    reach = {"offline": 0.75, "online": 0.97}[stage]
    common = {"task_ids": list(range(40, 40 + TASKS)), "task_parameters": goals}
    lost = generator.uniform(0.0, np.pi, TASKS)
    own_paths = {
        "paths_first": [_path(angle, 0.9, generator) for angle in lost],
        "paths_last": [_path(angle, reach, generator) for angle in angles],
    }
    return {
        "online_prior": {
            "protocol": "online_prior",
            "returns": (shape + hardness[:, None, None] + noise[0]).tolist(),
            **common,
            **own_paths,
        },
        "offline": {
            "protocol": "offline",
            "returns": (offline + hardness[:, None, None] + noise[1]).tolist(),
            **common,
            **own_paths,
        },
        "shift": {
            "offline_vs_prior": 31.2,
            "online_vs_prior": 22.0 if stage == "offline" else 30.1,
            "offline_vs_online": 14.3 if stage == "offline" else 2.2,
        },
    }


def _path(angle, reach, generator):
    distance = reach * (1.0 - np.exp(-np.arange(HORIZON + 1) / 5.0))
    bend = angle + 0.25 * np.exp(-np.arange(HORIZON + 1) / 6.0) * generator.normal()
    jitter = generator.normal(0.0, 0.01, (HORIZON + 1, 2))
    path = np.stack([distance * np.cos(bend), distance * np.sin(bend)], axis=1) + jitter
    path[0] = 0.0
    return path.tolist()


def _curve(stages, hardness, generator):
    points = []
    for stage in stages:
        start, end = {"offline": (0, 5000), "online": (5000, 8000)}[stage]
        for updates in np.linspace(start, end, 8).astype(int).tolist():
            done = (updates - start) / (end - start)
            begin = (-20.0, -20.0, -20.0) if stage == "offline" else RETURNS["offline"]
            weight = 1.0 - np.exp(-4.0 * done)
            values = [b + (e - b) * weight for b, e in zip(begin, RETURNS[stage], strict=True)]
            names = ("prior_return", "online_context_return", "offline_context_return")
            noise = generator.normal(0.0, 0.3, (3, TASKS))
            points.append(
                {
                    "updates": updates,
                    "stage": stage,
                    **{
                        name: summary(value + hardness + extra)
                        for name, value, extra in zip(names, values, noise, strict=True)
                    },
                }
            )
    return points


def _metrics(stages, generator):
    for stage in stages:
        start, end = {"offline": (0, 5000), "online": (5000, 8000)}[stage]
        for updates in range(start, end, 10):
            online = stage == "online"
            fade = np.exp(-updates / 1500.0)
            losses = {
                "critic": 2.0 + 6.0 * fade + 0.3 * generator.normal() ** 2,
                "actor": -1.0 + 2.0 * fade + 0.1 * generator.normal(),
            }
            if not online:
                losses |= {
                    "reward": 0.02 + 0.5 * fade + 0.02 * generator.normal() ** 2,
                    "kl": 1.2 - fade + 0.05 * generator.normal(),
                }
            row = {
                "time_s": updates / 30.0,
                "stage": stage,
                "updates": updates,
                "updates_per_s": 30.0 + 2.0 * generator.normal(),
                "losses": losses,
            }
            if online:
                done = (updates - start) / (end - start)
                row |= {
                    "env_steps": int(120_000 * done),
                    "env_steps_per_s": 1200.0 + 60.0 * generator.normal(),
                    "online_share": 0.68 * (1.0 - np.exp(-2.0 * done)),
                    "staleness": 12.0 + 4.0 * generator.normal(),
                    "collectors": 2,
                    "deaths": int(done > 0.5),
                }
            yield row
