"""Files in each foreign layout, written from episodes of ours, and read by an importer."""

import json
from dataclasses import replace

import h5py
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.importers.conversion import ConversionConfig, Converter
from causeway.datasets.importers.foreign import ReadOptions
from causeway.datasets.importers.registry import FORMATS

LAYOUT = RowLayout(observation_size=3, action_size=2)
HORIZON = 6
DISCOUNT = 0.9


def make_walk(steps, *, terminated=False, seed=0):
    """An episode whose every next observation is the following one."""
    generator = np.random.default_rng(seed)
    path = generator.normal(size=(steps + 1, 3)).astype(np.float32)
    ends = np.zeros((2, steps), bool)
    ends[0 if terminated else 1, -1] = True
    return Episode(
        observation=path[:-1],
        action=generator.uniform(-1, 1, (steps, 2)).astype(np.float32),
        next_observation=path[1:],
        terminated=ends[0],
        truncated=ends[1],
        reward=generator.normal(size=steps).astype(np.float32),
    )


def make_walks(lengths, seed=0):
    """Episodes of these lengths: at the horizon truncated, before it terminated."""
    return [
        make_walk(steps, terminated=steps < HORIZON, seed=100 * seed + i)
        for i, steps in enumerate(lengths)
    ]


LENGTHS = (6, 3, 6, 6, 1, 5)


def load(name, place, *, horizon=HORIZON, task=None, **options):
    """The episodes of a place, by task, and the notes.

    Args:
        name: of the format.
        place: as an importer is given it.
        horizon: env steps.
        task: only this one.
        options: of reading and of conversion, by name.
    """
    form, notes = FORMATS[name], {}
    reading = {k: v for k, v in options.items() if k in ReadOptions.__dataclass_fields__}
    rest = {k: v for k, v in options.items() if k not in reading}
    config = ConversionConfig(layout=LAYOUT, horizon=horizon, **rest)
    converter = Converter(config, notes, continuous=form.continuous)
    found = {
        one.id: [
            converter.convert(episode)
            for episode in form.read(one, ReadOptions(horizon=horizon, **reading), notes)
        ]
        for one in form.find_tasks(str(place))
        if task in (None, one.id)
    }
    return found, notes


def macaw_arrays(episodes, discount=DISCOUNT):
    """The arrays of the authors' buffer: each episode from its last step to its first."""
    columns = {}
    for episode in episodes:
        steps, running = len(episode), 0.0
        returns = np.zeros(steps)
        for t in reversed(range(steps)):
            running = float(episode.reward[t]) + discount * running
            returns[t] = running
        remaining = np.arange(steps, 0, -1)
        ends = np.zeros((steps, 1), bool)
        ends[-1] = True  # set at a time limit, too
        forwards = {
            "obs": episode.observation,
            "actions": episode.action,
            "rewards": episode.reward[:, None],
            "mc_rewards": returns[:, None].astype(np.float32),
            "terminals": ends,
            "terminal_obs": np.repeat(episode.next_observation[-1:], steps, axis=0),
            "terminal_discounts": (discount**remaining)[:, None].astype(np.float32),
            "next_obs": episode.next_observation,
        }
        for name, values in forwards.items():
            columns.setdefault(name, []).append(values[::-1])
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return {**arrays, "discount_factor": np.float64(discount)}


def write_hdf5(path, arrays, **storage):
    """Arrays by name in a new file; storage goes to those that have rows."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            options = storage if np.ndim(values) else {}
            file.create_dataset(name, data=values, **options)
    return path


def write_macaw(path, episodes, **storage):
    return write_hdf5(path, macaw_arrays(episodes), **(storage or {"compression": "lzf"}))


def object_rows(episode, kind=np.float64):
    """An episode as FOCAL's list of steps; the array that it makes of it."""
    rows = np.empty((len(episode), 4), object)
    following = episode.observation[0].astype(kind)
    for t in range(len(episode)):
        observation, following = following, episode.next_observation[t].astype(kind)
        reward = kind(episode.reward[t])
        rows[t] = [observation, episode.action[t], reward, following]
    return rows


def write_focal(folder, tasks):
    """One file for each episode, in the order of two samples a training step."""
    for task, episodes in tasks.items():
        home = folder / f"goal_idx{task}"
        home.mkdir(parents=True)
        for i, episode in enumerate(episodes):
            name = f"trj_evalsample{i % 2}_step{500 * (i // 2)}.npy"
            np.save(home / name, object_rows(episode), allow_pickle=True)
    return folder


def corro_arrays(episodes):
    """The arrays of the authors' buffer, in float64, terminals only where an episode ended."""
    joined = {
        "obs": [e.observation for e in episodes],
        "actions": [e.action for e in episodes],
        "rewards": [e.reward[:, None] for e in episodes],
        "next_obs": [e.next_observation for e in episodes],
    }
    arrays = {name: np.concatenate(parts).astype(np.float64) for name, parts in joined.items()}
    ends = np.concatenate([e.terminated[:, None] for e in episodes])
    return {**arrays, "terminals": ends.astype(np.uint8)}


def write_arrays(folder, arrays):
    folder.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


def write_corro(folder, tasks):
    for task, episodes in tasks.items():
        write_arrays(folder / f"seed_{task}_goal_{task / 4}_-0.5", corro_arrays(episodes))
    return folder


def minari_metadata(episodes):
    return {
        "total_episodes": len(episodes),
        "total_steps": sum(len(e) for e in episodes),
        "data_format": "hdf5",
        "dataset_id": "walks/three-v0",
        "minari_version": "0.5.4",
    }


def write_minari(folder, episodes, composite=False):
    """A data set as Minari 0.5 lays it out; a composite observation is (two features, one)."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text(json.dumps(minari_metadata(episodes)))
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for i, episode in enumerate(episodes):
            group = file.create_group(f"episode_{i}")
            group.attrs.update({"id": i, "seed": 7, "total_steps": len(episode)})
            seen = np.concatenate([episode.observation, episode.next_observation[-1:]])
            columns = {
                "actions": episode.action,
                "rewards": episode.reward.astype(np.float64),
                "terminations": episode.terminated,
                "truncations": episode.truncated,
            }
            if composite:
                columns |= {"observations/far": seen[:, :2], "observations/near": seen[:, 2:]}
            else:
                columns["observations"] = seen.astype(np.float64)
            for name, values in columns.items():
                shape = (None, *values.shape[1:])
                group.create_dataset(name, data=values, chunks=True, maxshape=shape)
            group.create_group("infos").create_dataset("x_position", data=seen[:, 0])
    return folder


def d4rl_arrays(episodes, *, following=True, timeouts=True):
    arrays = {
        "observations": np.concatenate([e.observation for e in episodes]),
        "actions": np.concatenate([e.action for e in episodes]),
        "rewards": np.concatenate([e.reward for e in episodes]),
        "terminals": np.concatenate([e.terminated for e in episodes]),
    }
    if following:
        arrays["next_observations"] = np.concatenate([e.next_observation for e in episodes])
    if timeouts:
        arrays["timeouts"] = np.concatenate([e.truncated for e in episodes])
    return arrays


def packed_array(values):
    """An array as msgpack-numpy packs it."""
    values = np.asarray(values)
    return {
        b"nd": True, b"type": values.dtype.str, b"kind": b"",
        b"shape": list(values.shape), b"data": values.tobytes(),
    }  # fmt: skip


def rllib_state(episode, *, id_="a", begin=0, end=None, lookback=0, as_lists=True):
    """The state of an episode, or of the piece of it from `begin` to `end`, as RLlib has it."""
    end = len(episode) if end is None else end
    seen = np.concatenate([episode.observation, episode.next_observation[-1:]])
    first = begin - lookback

    def buffer(values):
        data = [packed_array(v) for v in values] if as_lists else packed_array(values)
        return {"data": data, "lookback": lookback, "finalized": not as_lists, "space": None}

    is_last = end == len(episode)
    return {
        "id_": id_,
        "agent_id": None,
        "module_id": None,
        "multi_agent_episode_id": None,
        "observations": buffer(seen[first : end + 1]),
        "actions": buffer(episode.action[first:end]),
        "rewards": buffer(episode.reward[first:end].astype(np.float64)),
        "infos": {"data": [{}, {b"odd": 1, 3: "x"}], "lookback": 0, "finalized": False},
        "extra_model_outputs": None,
        "is_terminated": bool(episode.terminated[-1]) and is_last,
        "is_truncated": bool(episode.truncated[-1]) and is_last,
        "t_started": begin,
        "t": end,
        "_start_time": None,
        "custom_data": {},
    }


def write_items(path, states):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [s if isinstance(s, bytes) else msgpack.packb(s) for s in states]
    table = pa.table({"item": pa.array(items, pa.binary())})
    pq.write_table(table, path, write_page_checksum=True)
    return path


def write_rllib(folder, episodes):
    states = [rllib_state(e, id_=f"episode {i}") for i, e in enumerate(episodes)]
    write_items(folder / "run-000001-00001" / "0.parquet", states)
    return folder


def shortened(episode, steps):
    """The first steps of an episode, truncated behind them."""
    ends = np.zeros(steps, bool)
    ends[-1] = True
    fields = ("observation", "action", "reward", "next_observation")
    shorter = {name: getattr(episode, name)[:steps] for name in fields}
    return Episode(**shorter, terminated=np.zeros_like(ends), truncated=ends)


def with_ends(episode, *, terminated, truncated):
    """The episode with other flags at its end."""
    ends = np.zeros((2, len(episode)), bool)
    ends[:, -1] = terminated, truncated
    return replace(episode, terminated=ends[0], truncated=ends[1])
