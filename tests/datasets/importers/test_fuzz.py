"""Damaged bytes in every foreign format: a good load, or one error that names the file."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.faults import DatasetError
from causeway.datasets.importers.registry import FORMATS

from .layouts import LENGTHS, load, make_walks
from .test_writing import write_each

STEPS = sum(LENGTHS)
MAX_TOLD = 1500  # characters of an error
EDITS = st.lists(
    st.tuples(st.integers(0, 2_000) | st.integers(0, 100_000), st.integers(0, 255)), max_size=4
)
CUT = st.just(0) | st.integers(0, 3_000)
FEW, MANY = 25, pytest.param(1_500, marks=pytest.mark.slow)
each_format = pytest.mark.parametrize("name", sorted(FORMATS))
as_often = pytest.mark.parametrize("examples", [FEW, MANY])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Good data of each format, and a folder to damage copies of them in."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "good").mkdir()
    return folder, write_each(folder / "good", make_walks(LENGTHS))


def files_of(place):
    return sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]


def damaged_copy(originals, name, choice, change):
    """A copy of a format's data with one of its files changed; the copy's place."""
    folder, places = originals
    place = folder / "damaged" / places[name].name
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    if places[name].is_dir():
        shutil.copytree(places[name], place)
    else:
        shutil.copy(places[name], place)
    files = files_of(place)
    path = files[choice % len(files)]
    path.write_bytes(change(path.read_bytes()))
    return place


def outcome(name, place):
    """What reading a place gives, or the one error that it may raise."""
    try:
        found, _ = load(name, place, **({"early_end": "truncated"} if name == "corro" else {}))
    except DatasetError as error:
        return None, error
    return found[0], None


def expect_clear(error, place):
    assert str(place) in str(error)
    assert len(str(error)) < MAX_TOLD
    assert error.fault is not None


def expect_good_load_or_clear_error(name, place):
    episodes, error = outcome(name, place)
    if error is not None:
        expect_clear(error, place)
        return
    assert sum(map(len, episodes)) == STEPS  # nothing is lost without a word
    for episode in episodes:
        for values in (episode.observation, episode.next_observation, episode.reward):
            assert np.isfinite(values).all()
        assert np.abs(episode.action).max() <= 1.0 + 1e-6
        assert episode.terminated[-1] or episode.truncated[-1]
        assert not (episode.terminated | episode.truncated)[:-1].any()


def mutate(contents, edits, cut):
    changed = bytearray(contents)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)])


@each_format
@as_often
def test_mutated_bytes_are_a_good_load_or_one_clear_error(originals, name, examples):
    @settings(derandomize=True, deadline=None, max_examples=examples)
    @given(choice=st.integers(0, 50), edits=EDITS, cut=CUT)
    def check(choice, edits, cut):
        place = damaged_copy(originals, name, choice, lambda b: mutate(b, edits, cut))
        expect_good_load_or_clear_error(name, place)

    check()


@each_format
@as_often
def test_bytes_from_nowhere_are_one_clear_error(originals, name, examples):
    @settings(derandomize=True, deadline=None, max_examples=examples)
    @given(choice=st.integers(0, 50), contents=st.binary(max_size=300))
    def check(choice, contents):
        place = damaged_copy(originals, name, choice, lambda _: contents)
        _, error = outcome(name, place)
        expect_clear(error, place)

    check()


@each_format
@as_often
def test_spliced_files_are_a_good_load_or_one_clear_error(originals, name, examples):
    """A piece of a file over another place of it: parts that are well formed in the wrong place."""

    @settings(derandomize=True, deadline=None, max_examples=examples)
    @given(choice=st.integers(0, 50), source=st.integers(0), target=st.integers(0), size=CUT)
    def check(choice, source, target, size):
        def splice(contents):
            begin, end = source % len(contents), target % len(contents)
            piece = contents[begin : begin + size % 400]
            return contents[:end] + piece + contents[end + len(piece) :]

        place = damaged_copy(originals, name, choice, splice)
        expect_good_load_or_clear_error(name, place)

    check()
