"""Bad files: each named with what is wrong, put aside, and the rest read on."""

import hashlib
import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causeway.datasets.faults import DatasetError, Fault
from causeway.datasets.shards import read_part, read_shard, write_part, write_shard
from causeway.datasets.store import DatasetStore

from .factories import LAYOUT, assert_same_episodes, make_episodes, write_dataset

PART = "task=0/part-00000.parquet"


@pytest.fixture
def dataset(tmp_path):
    written = write_dataset(tmp_path / "set")
    return tmp_path / "set", written


def replace_part(folder, table, **options):
    """Puts another table in a part's place, with a manifest that vouches for it."""
    pq.write_table(table, folder / PART, **options)
    vouch_for_part(folder)


def vouch_for_part(folder):
    contents = (folder / PART).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    part = manifest["tasks"][0]["parts"][0]
    part["sha256"] = hashlib.sha256(contents).hexdigest()
    part["bytes"] = len(contents)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def with_value(table, name, row, value):
    """The table with one value of a column changed; in a list, its first feature."""
    values = table.column(name).to_pylist()
    if isinstance(values[row], list) and not isinstance(value, list | None):
        values[row][0] = value
    else:
        values[row] = value
    field = table.schema.field(name).with_nullable(True)
    column = pa.array(values, field.type)
    return table.set_column(table.schema.get_field_index(name), field, column)


def with_type(table, name, kind):
    column = table.column(name).cast(kind)
    return table.set_column(table.schema.get_field_index(name), name, column)


@pytest.mark.parametrize(
    ("change", "column", "row", "message"),
    [
        (lambda t: t.drop_columns("reward"), "reward", None, "must be there once"),
        (
            lambda t: with_type(t, "observation", pa.list_(pa.float32())),
            "observation",
            None,
            r"must be fixed_size_list<.*>\[3\], got list<",
        ),
        (
            lambda t: t.rename_columns(
                [
                    "action" if n == "observation" else "x" if n == "action" else n
                    for n in t.column_names
                ]
            ).append_column("observation", t.column("observation")),
            "action",
            None,
            r"must be fixed_size_list<.*>\[2\], got fixed_size_list<.*>\[3\]",
        ),
        (
            lambda t: with_type(t, "reward", pa.float64()),
            "reward",
            None,
            "must be float, got double",
        ),
        (
            lambda t: with_type(t, "terminated", pa.int8()),
            "terminated",
            None,
            "must be bool, got int8",
        ),
        (lambda t: with_value(t, "reward", 17, np.nan), "reward", 17, "must be finite, got nan"),
        (lambda t: with_value(t, "reward", 17, None), "reward", 17, "must have a value, got null"),
        (
            lambda t: with_value(t, "observation", 5, np.inf),
            "observation",
            5,
            "must be finite, got inf in feature 0",
        ),
        (
            lambda t: with_value(t, "next_observation", 5, [1.0, None, 2.0]),
            "next_observation",
            5,
            "must be finite, got nan in feature 1",
        ),
        (
            lambda t: with_value(t, "observation", 5, None),
            "observation",
            5,
            "must have a value, got null",
        ),
        (
            lambda t: with_value(t, "action", 3, -1.25),
            "action",
            3,
            r"must lie in \[-1, 1\], got -1.25 in feature 0",
        ),
        (
            lambda t: with_value(t, "step", 8, 9),
            "step",
            8,
            r"must count 0, 1, 2, \.\.\. within an episode, got 9",
        ),
        (lambda t: t.slice(1), "step", 0, "must count 0, 1, 2"),
        (
            lambda t: pa.concat_tables([t, t.slice(0, 6)]),
            "episode",
            24,
            "rows of one episode must stand together, got 0",
        ),
        (
            lambda t: with_value(t, "truncated", 2, True),
            "truncated",
            2,
            "must be false before an episode's last row, got True",
        ),
        (
            lambda t: with_type(with_value(t, "source", 4, "dream"), "source", pa.string()),
            "source",
            4,
            r"must be one of \['offline', 'self_supervised', 'online'\], got 'dream'",
        ),
        (lambda t: t.slice(0, 0), None, None, "must hold 1 to .* rows, it states 0"),
        (lambda t: t.slice(0, 18), None, None, "must hold 24 rows in 4 episodes"),
        (
            lambda t: t.replace_schema_metadata({"causeway.schema_version": "9"}),
            None,
            None,
            "schema version must be 1, got 9: the file was written by another release",
        ),
        (
            lambda t: t.replace_schema_metadata({"causeway.task": "7"}),
            None,
            None,
            "must hold transitions of task 0, it says task 7",
        ),
    ],
)
def test_an_alien_part_is_named_and_the_rest_is_read(dataset, change, column, row, message):
    folder, written = dataset
    replace_part(folder, change(pq.read_table(folder / PART)))
    store = DatasetStore.open(folder)
    assert_same_episodes(store.episodes(0), written[0][4:])
    assert_same_episodes(store.episodes(1), written[1])
    fault, *_ = store.verify()
    assert (fault.file, fault.column, fault.row) == (str(folder / PART), column, row)
    with pytest.raises(DatasetError, match=message) as caught:
        DatasetStore.open(folder, strict=True)
    assert str(caught.value) == str(fault)
    assert str(folder / PART) in str(fault)


def test_every_fault_of_a_part_is_named_and_the_part_counts_once(dataset):
    folder, _ = dataset
    table = with_value(pq.read_table(folder / PART), "reward", 17, np.nan)
    table = with_value(with_value(table, "action", 3, -1.25), "action", 9, 7.0)
    replace_part(folder, with_value(table, "truncated", 2, True))
    store = DatasetStore.open(folder)
    told = [str(fault) for fault in store.verify()]
    assert [told[i].partition(": must")[0].split(", ", 1)[1] for i in range(3)] == [
        "column reward, row 17",
        "column action, row 3",
        "column truncated, row 2",
    ]
    assert told[1].endswith("got -1.25 in feature 0; wrong in 2 rows")
    assert store.fault_share == pytest.approx(1 / 6)
    record = json.loads((folder / "quarantine.json").read_text())
    assert len(record["faults"]) == len(told) == 3


def test_every_column_of_a_wrong_type_is_named(dataset):
    folder, _ = dataset
    table = with_type(pq.read_table(folder / PART), "reward", pa.float64())
    replace_part(folder, with_type(table, "terminated", pa.int8()).drop_columns("step"))
    faults = DatasetStore.open(folder).verify()
    assert [fault.column for fault in faults] == ["reward", "terminated", "step"]


def restate(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["statistics"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_statistics_must_be_those_of_the_episodes(dataset):
    folder, _ = dataset
    restate(folder, lambda s: (s["1"].update(return_mean=3.5, episodes=9), s.pop("2")))
    store = DatasetStore.open(folder)
    told = [(fault.column, fault.what) for fault in store.verify()]
    assert told[0] == ("statistics.1.episodes", "must be 8, got 9")
    assert told[1][0] == "statistics.1.return_mean"
    assert told[1][1].endswith("got 3.5")
    assert told[2] == ("statistics.2", "must be there, the task has episodes")
    assert store.faults == ()
    assert not (folder / "quarantine.json").exists()
    with pytest.raises(DatasetError, match=r"manifest\.json, column statistics\.1\.episodes"):
        DatasetStore.open(folder, strict=True)


def test_statistics_are_not_compared_with_a_part_of_the_episodes(dataset):
    folder, _ = dataset
    (folder / PART).unlink()
    assert len(DatasetStore.open(folder).verify()) == 1


def test_verification_tells_how_far_it_is(dataset):
    folder, _ = dataset
    (folder / PART).write_bytes(b"")
    told = []
    DatasetStore.open(folder).verify(lambda *now: told.append(now))
    assert told[-1] == (6, 6)
    assert told == sorted(told)


def test_an_episode_beyond_the_horizon_is_named(dataset):
    folder, _ = dataset
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "horizon": 4}))
    fault = DatasetStore.open(folder).verify()[0]
    assert "column step, row 4: must be less than the horizon, 4, got 4" in str(fault)


def test_a_column_of_another_programme_does_no_harm(dataset):
    folder, written = dataset
    table = pq.read_table(folder / PART)
    replace_part(folder, table.append_column("note", pa.array(["x"] * table.num_rows)))
    assert_same_episodes(DatasetStore.open(folder, strict=True).episodes(0), written[0])


def test_plain_strings_and_foreign_codecs_are_read(dataset):
    folder, written = dataset
    table = pq.read_table(folder / PART)
    replace_part(folder, with_type(table, "source", pa.string()), compression="zstd")
    assert_same_episodes(DatasetStore.open(folder, strict=True).episodes(0), written[0])


def test_a_missing_part_is_known_at_once(dataset):
    folder, written = dataset
    (folder / PART).unlink()
    store = DatasetStore.open(folder)
    assert "must be there: manifest.json lists it" in str(store.faults[0])
    assert_same_episodes(store.episodes(0), written[0][4:])
    assert store.fault_share == pytest.approx(1 / 6)


def test_a_cut_off_part_is_known_at_once(dataset):
    folder, _ = dataset
    contents = (folder / PART).read_bytes()
    (folder / PART).write_bytes(contents[:-100])
    (fault,) = DatasetStore.open(folder).faults
    assert f"must have {len(contents)} bytes, got {len(contents) - 100}" in fault.what


def test_a_flipped_bit_is_caught_by_the_checksum(dataset):
    folder, _ = dataset
    contents = bytearray((folder / PART).read_bytes())
    contents[500] ^= 1
    (folder / PART).write_bytes(contents)
    (fault,) = DatasetStore.open(folder).verify()
    assert "sha256 must be" in fault.what


def test_a_flipped_bit_that_nobody_vouches_against_is_caught_by_its_pages_checksum(dataset):
    folder, _ = dataset
    contents = bytearray((folder / PART).read_bytes())
    contents[500] ^= 1  # within the first column's page
    (folder / PART).write_bytes(contents)
    vouch_for_part(folder)
    (fault,) = DatasetStore.open(folder).verify()
    assert "reading it failed" in fault.what
    assert "CRC" in fault.what


def test_quarantined_parts_are_recorded_beside_the_data_and_kept(dataset):
    folder, _ = dataset
    (folder / PART).write_bytes(b"PAR1 no more")
    store = DatasetStore.open(folder)
    record = json.loads((folder / "quarantine.json").read_text())
    assert record["faults"][0]["file"] == str(folder / PART)
    assert (folder / PART).exists()
    assert len(store.parts(0)) == 1


def test_a_repaired_part_is_read_again(dataset, tmp_path):
    folder, written = dataset
    shutil.copy(folder / PART, tmp_path / "copy")
    (folder / PART).write_bytes(b"")
    assert len(DatasetStore.open(folder).episodes(0)) == 4
    shutil.copy(tmp_path / "copy", folder / PART)
    store = DatasetStore.open(folder)
    assert_same_episodes(store.episodes(0), written[0])
    assert store.verify() == []
    assert not (folder / "quarantine.json").exists()


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no such folder"):
        DatasetStore.open(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"it has no manifest\.json"):
        DatasetStore.open(tmp_path)


def test_the_error_crosses_processes_with_its_fault():
    error = DatasetError.of(Fault(file="a", what="must be", column="reward", row=2))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "a, column reward, row 2: must be"
    assert copy.fault == error.fault


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A labelled part and a shard, and the bytes of both."""
    folder = tmp_path_factory.mktemp("mutated")
    part = write_part(folder / "part", make_episodes(3), task=1, label_version=2)
    shard = write_shard(folder / "shard", make_episodes(3), task=1)
    return folder, {"part": part, "shard": shard}


def mutate(contents, edits, cut):
    changed = bytearray(contents)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)])


def outcome(read, path):
    """What reading gives, or the one error that it may raise."""
    try:
        return read(path, None, LAYOUT), None
    except DatasetError as error:
        return None, error


def in_footer(place):
    """Footers are where no page checksum reaches: aim there."""
    return -1 - place


@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(["part", "shard"]),
    edits=st.lists(
        st.tuples(
            st.integers(0, 20_000) | st.integers(0, 3_000).map(in_footer), st.integers(0, 255)
        ),
        max_size=4,
    ),
    cut=st.just(0) | st.integers(0, 3_000),
)
def test_mutated_bytes_are_a_good_load_or_one_clear_error(files, name, edits, cut):
    folder, written = files
    read = {"part": read_part, "shard": read_shard}[name]
    original = (folder / name).read_bytes()
    contents = mutate(original, edits, cut)
    path = folder / f"mutated-{name}"
    path.write_bytes(contents)
    episodes, error = outcome(read, path)
    if error is not None:
        assert str(path) in str(error)
        assert len(str(error)) < 1000
    else:
        assert all(np.isfinite(episode.observation).all() for episode in episodes)
        assert all(np.abs(episode.action).max() <= 1.0 + 1e-6 for episode in episodes)
    if contents == original:
        read(path, written[name].sha256, LAYOUT)
    else:
        with pytest.raises(DatasetError, match="sha256 must be"):
            read(path, written[name].sha256, LAYOUT)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(contents=st.binary(max_size=200))
def test_bytes_from_nowhere_are_one_clear_error(files, contents):
    path = files[0] / "nowhere"
    path.write_bytes(contents)
    with pytest.raises(DatasetError, match="nowhere: must be a complete Parquet file"):
        read_shard(path, None, LAYOUT)
