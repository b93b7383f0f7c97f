"""Damaged manifests: read as something that can be written again, or refused by name."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.faults import DatasetError
from causeway.datasets.schema import Manifest
from causeway.datasets.store import DatasetStore

from .factories import write_dataset

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), "task=0/part-00000.parquet", "/etc/passwd", "s3://x/y"])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """A data set's folder, and the text of its manifest."""
    folder = tmp_path_factory.mktemp("set")
    write_dataset(folder, parts=1, episodes=2)
    return folder, (folder / "manifest.json").read_text()


def places_in(value, path=()):
    """Every place in a JSON value, by its keys."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def expect_good_manifest_or_clear_error(folder, text):
    """A good one can be written again, and its data set be verified."""
    (folder / "manifest.json").write_bytes(text)
    shutil.rmtree(folder / "quarantine.json", ignore_errors=True)
    manifest, error = opened(folder)
    if error is not None:
        assert str(folder / "manifest.json") in str(error)
        assert len(str(error)) < 1000
        return
    again = Manifest.from_json(manifest.to_json(), file="again")
    assert again == manifest


def opened(folder):
    try:
        store = DatasetStore.open(folder)
        faults = store.verify()
    except DatasetError as error:
        return None, error
    assert all(str(folder) in str(fault) for fault in faults)
    return store.manifest, None


@SETTINGS
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.just(0) | st.integers(0, 3_000),
)
def test_mutated_bytes_of_a_manifest(data_set, edits, cut):
    folder, text = data_set
    changed = bytearray(text.encode())
    for place, value in edits:
        changed[place % len(changed)] = value
    expect_good_manifest_or_clear_error(folder, bytes(changed[: len(changed) - cut % len(changed)]))


@SETTINGS
@given(choice=st.integers(0), value=VALUES)
def test_any_value_in_any_place_of_a_manifest(data_set, choice, value):
    folder, text = data_set
    whole = json.loads(text)
    places = list(places_in(whole))
    changed = replaced(whole, places[choice % len(places)], value)
    expect_good_manifest_or_clear_error(folder, json.dumps(changed).encode())


def test_a_number_too_large_for_a_float_is_refused(data_set):
    _, text = data_set
    whole = json.loads(text)
    whole["statistics"]["0"]["return_mean"] = 0.5
    with pytest.raises(DatasetError, match=r"numbers must be finite, got 1e999"):
        Manifest.from_json(json.dumps(whole).replace("0.5", "1e999"), file="m.json")
    whole["statistics"]["0"]["return_mean"] = 10**400
    with pytest.raises(DatasetError, match=r"return_mean must be a number that a float can hold"):
        Manifest.from_json(json.dumps(whole), file="m.json")
