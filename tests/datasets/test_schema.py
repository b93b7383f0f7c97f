"""The manifest: read back as it was written, refused by the name of what is wrong."""

import json

import pytest

from causeway.datasets.faults import DatasetError
from causeway.datasets.schema import Manifest, PartEntry, ReferenceReturns, TaskEntry
from causeway.datasets.statistics import task_statistics

from .factories import make_header


def make_manifest(**changes):
    header = make_header()
    part = PartEntry(path="task=0/part-00000.parquet", rows=9, episodes=2, sha256="ab", bytes=77)
    task = TaskEntry(id=0, split_part="train", parameters={"goal": 0.5}, parts=(part,))
    values = {
        "family": header.family,
        "split": header.split,
        "observation_size": 3,
        "action_size": 2,
        "horizon": 6,
        "tasks": (task,),
        "statistics": {0: task_statistics([1.0, 3.0], 9)},
        "references": {0: ReferenceReturns(random=-1.0)},
        "provenance": header.provenance,
        "license": "CC0-1.0",
    }
    return Manifest(**{**values, **changes})


def test_a_manifest_is_read_back_as_it_was_written():
    manifest = make_manifest()
    assert Manifest.from_json(manifest.to_json(), file="manifest.json") == manifest


def changed(change):
    value = json.loads(make_manifest().to_json())
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("family"), "family is missing"),
        (lambda m: m.pop("schema_version"), "schema_version is missing"),
        (lambda m: m.update(schema_version=2), "schema_version must be 1, got 2"),
        (lambda m: m.update(colour="red"), "colour is unknown, the keys here are"),
        (lambda m: m["tasks"][0].pop("id"), r"tasks\[0\].id is missing"),
        (lambda m: m["tasks"][0].update(id=True), r"tasks\[0\].id must be of type int, got True"),
        (
            lambda m: m["tasks"][0].update(split_part="valid"),
            r"tasks\[0\].split_part must be one of \['train', 'test'\], got 'valid'",
        ),
        (
            lambda m: m["tasks"][0]["parts"][0].update(rows="9"),
            r"tasks\[0\].parts\[0\].rows must be of type int, got '9'",
        ),
        (
            lambda m: m["tasks"][0]["parts"][0].update(path="../../etc/passwd"),
            "parts.path must stay inside the data set",
        ),
        (lambda m: m["tasks"].append(m["tasks"][0]), "tasks.id must be unique"),
        (lambda m: m.update(tasks={}), "tasks must be a list"),
        (lambda m: m.update(statistics={"a": {}}), "statistics must be an object with integer"),
        (lambda m: m["provenance"].update(seed=1.5), "provenance.seed must be int or null"),
        (lambda m: m.update(horizon=0), "Manifest.horizon must be at least 1"),
        (
            lambda m: m["statistics"]["0"].update(return_mean=float("nan")),
            "numbers must be finite, got NaN",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_by_the_name_of_its_key(change, message):
    with pytest.raises(DatasetError, match=f"^a/manifest.json: .*{message}"):
        Manifest.from_json(changed(change), file="a/manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', b"\xff\xfe", "[" * 100_000])
def test_what_is_no_manifest_is_one_clear_error(text):
    with pytest.raises(DatasetError, match=r"^m\.json: "):
        Manifest.from_json(text, file="m.json")


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"task 8 is not in this data set, it has \[0\]"):
        make_manifest().task(8)
