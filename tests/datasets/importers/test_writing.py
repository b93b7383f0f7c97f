"""From foreign files to a data set: whole or not at all, and what was done written down."""

import json
from collections import Counter

import numpy as np
import pytest

from causeway.datasets import writer
from causeway.datasets.faults import DatasetError
from causeway.datasets.importers.conversion import ConversionConfig, check_horizon
from causeway.datasets.importers.foreign import ReadOptions
from causeway.datasets.importers.registry import FORMATS, find_format
from causeway.datasets.importers.writing import check_options, write_tasks
from causeway.datasets.store import DatasetStore
from causeway.datasets.writer import DatasetWriter
from tests.datasets.factories import assert_same_episodes, make_header

from .layouts import (
    HORIZON,
    LAYOUT,
    LENGTHS,
    d4rl_arrays,
    make_walk,
    make_walks,
    write_corro,
    write_focal,
    write_hdf5,
    write_macaw,
    write_minari,
    write_rllib,
)


def write_each(folder, episodes):
    """The same episodes in every format: the place of each, by its name."""
    return {
        "macaw": write_macaw(folder / "macaw.hdf5", episodes),
        "focal": write_focal(folder / "focal", {0: episodes}),
        "corro": write_corro(folder / "corro", {0: episodes}),
        "minari": write_minari(folder / "minari", episodes),
        "d4rl": write_hdf5(folder / "d4rl.hdf5", d4rl_arrays(episodes)),
        "rllib": write_rllib(folder / "rllib", episodes),
    }


def imported(name, place, out, *, horizon=HORIZON, horizon_given=True, progress=None, **options):
    """Imports a place's tasks, whatever they are, all of them to train with."""
    form = FORMATS[name]
    tasks = form.find_tasks(str(place))
    header = make_header(train=[task.id for task in tasks], test=(), horizon=horizon)
    config = ConversionConfig(layout=LAYOUT, horizon=horizon)
    reading = ReadOptions(horizon=horizon, **options)
    with DatasetWriter(out, header) as writer:
        notes = write_tasks(
            form, tasks, reading, config, writer,
            horizon_given=horizon_given, progress=progress or (lambda done, total: None),
        )  # fmt: skip
        writer.note(notes)
    return DatasetStore.open(out, strict=True)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_gives_the_same_data_set_for_the_same_episodes(tmp_path, name):
    episodes = make_walks(LENGTHS * 3)
    place = write_each(tmp_path, episodes)[name]
    told = []
    store = imported(name, place, tmp_path / "out", progress=lambda *now: told.append(now))
    assert_same_episodes(store.episodes(0), episodes)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    assert 0 < told[0][0] < told[-1][0]


def test_what_was_found_stands_in_the_manifest(tmp_path):
    place = write_each(tmp_path, make_walks(LENGTHS))["macaw"]
    options = imported("macaw", place, tmp_path / "out").manifest.provenance.options
    assert options["file.discount_factor"] == 0.9


def test_parts_are_bounded_and_an_episode_is_never_parted(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_PART_BYTES", 4 * LAYOUT.width * 10)
    episodes = make_walks(LENGTHS * 3)
    place = write_each(tmp_path, episodes)["d4rl"]
    store = imported("d4rl", place, tmp_path / "out")
    rows = [part.rows for part in store.parts(0)]
    assert max(rows) <= 10
    assert len(rows) > 5
    assert_same_episodes(store.episodes(0), episodes)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_import_that_fails_leaves_nothing_that_opens(tmp_path, name, monkeypatch):
    monkeypatch.setattr(writer, "MAX_PART_BYTES", 4 * LAYOUT.width * 6)
    episodes = make_walks((6,) * 9)
    episodes[-1].reward[-1] = np.nan
    place = write_each(tmp_path, episodes)[name]
    with pytest.raises(DatasetError):
        imported(name, place, tmp_path / "out")
    with pytest.raises(DatasetError, match=r"it has no manifest\.json|there is no such folder"):
        DatasetStore.open(tmp_path / "out")


def test_a_task_without_episodes_is_refused(tmp_path):
    place = write_minari(tmp_path / "x", [])
    with pytest.raises(DatasetError, match="must hold groups episode_0"):
        imported("minari", place, tmp_path / "out")
    metadata = place / "data" / "metadata.json"
    assert json.loads(metadata.read_text())["total_episodes"] == 0


@pytest.mark.parametrize("name", ["macaw", "focal"])
def test_a_horizon_that_was_not_given_must_fit_the_files(tmp_path, name):
    """With too long a horizon every time limit would pass for an end."""
    episodes = [make_walk(6, seed=i) for i in range(8)]
    place = write_each(tmp_path, episodes)[name]
    with pytest.raises(DatasetError, match=r"8 of 8 episodes stop at 6, .* give --horizon 6 if"):
        imported(name, place, tmp_path / "a", horizon=20, horizon_given=False)
    store = imported(name, place, tmp_path / "b", horizon=20)
    assert all(e.terminated[-1] for e in store.episodes(0))
    store = imported(name, place, tmp_path / "c", horizon=6, horizon_given=False)
    assert_same_episodes(store.episodes(0), episodes)


def test_a_horizon_is_believed_where_episodes_stop_at_different_steps():
    check_horizon(Counter({20: 1, 6: 50}), 20, "x")  # one reaches it
    check_horizon(Counter({6: 3, 5: 3, 4: 1}), 20, "x")  # no majority stops together
    check_horizon(Counter({6: 1}), 20, "x")  # one alone says nothing
    with pytest.raises(DatasetError, match="4 of 7 episodes stop at 6"):
        check_horizon(Counter({6: 4, 5: 2, 4: 1}), 20, "x")


@pytest.mark.parametrize(
    ("option", "value", "takers"),
    [
        ("early_end", "truncated", {"corro"}),
        ("ignore_terminals", True, {"corro"}),
        ("observation_keys", ("far",), {"minari"}),
    ],
)
def test_an_option_that_a_format_would_drop_is_refused(option, value, takers):
    options = ReadOptions(horizon=6, **{option: value})
    for name, form in FORMATS.items():
        if name in takers:
            check_options(form, options)
        else:
            with pytest.raises(
                ValueError, match=f"--{option.replace('_', '-')} is not for .*{name}"
            ):
                check_options(form, options)


def test_an_unknown_format_is_guessed_at():
    with pytest.raises(ValueError, match=r"must be one of macaw, .* got 'minary'.*mean 'minari'"):
        find_format("minary")


@pytest.mark.parametrize(("field", "value"), [("action_bound", 0.0), ("horizon", 0)])
def test_a_conversion_that_cannot_be_is_refused(field, value):
    options = {"layout": LAYOUT, "horizon": 6} | {field: value}
    with pytest.raises(ValueError, match=f"{field} must be .* got {value}"):
        ConversionConfig(**options)
