"""Checkpoints: whole or not at all, and never trusted without their sums."""

import json

import pytest
import torch

from causeway.cluster.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)


def tensors_at(updates):
    return {
        "weight": torch.full((2, 3), float(updates)),
        "count": torch.tensor(updates),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "generator": torch.Generator().manual_seed(updates).get_state(),
    }


def save(folder, updates, keep=3):
    return save_checkpoint(
        folder, updates, tensors_at(updates), {"run": {"updates": updates}}, keep=keep
    )


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, 7))
    assert checkpoint.state == {"run": {"updates": 7}}
    assert checkpoint.tensors.keys() == tensors_at(7).keys()
    for name, tensor in tensors_at(7).items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_only_the_newest_are_kept_and_the_newest_is_found(tmp_path):
    for updates in (900, 1_000, 10_000, 20_000):
        save(tmp_path, updates, keep=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["update-00010000", "update-00020000"]
    checkpoint, faults = load_latest(tmp_path)
    assert (checkpoint.path.name, faults) == ("update-00020000", [])


def test_the_same_number_of_updates_again_replaces_the_checkpoint(tmp_path):
    save(tmp_path, 5)
    path = save_checkpoint(tmp_path, 5, tensors_at(6), {"second": True}, keep=3)
    checkpoint = load_checkpoint(path)
    assert checkpoint.state == {"second": True}
    assert checkpoint.tensors["count"] == 6


def test_what_a_crash_left_half_written_is_never_loaded_and_goes_with_the_next(tmp_path):
    save(tmp_path, 5)
    partial = tmp_path / "checkpoints" / ".partial-00000009-123"
    partial.mkdir()
    (partial / "tensors.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path)[0].path.name == "update-00000005"
    save(tmp_path, 10)
    assert not partial.exists()


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_damaged_file_is_named_with_both_sums(tmp_path, name):
    path = save(tmp_path, 5)
    damage(path / name)
    with pytest.raises(CheckpointError, match=r"must have sha256 \w{64}, got \w{64}") as raised:
        load_checkpoint(path)
    assert str(path / name) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "must be JSON"),
        ("[]", "must hold a mapping, got list"),
        ('{"format": 99}', "must have format 1, got 99"),
        ('{"format": 1, "updates": 5}', "sha256"),
        ('{"format": 1, "sha256": {"state.json": "0"}}', "tensors.safetensors"),
    ],
)
def test_a_manifest_that_says_too_little_is_refused_in_words(tmp_path, content, words):
    path = save(tmp_path, 5)
    (path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=words) as raised:
        load_checkpoint(path)
    assert str(path / "manifest.json") in str(raised.value)


@pytest.mark.parametrize("lost", ["tensors.safetensors", "state.json", "manifest.json"])
def test_an_absent_file_is_named(tmp_path, lost):
    path = save(tmp_path, 5)
    (path / lost).unlink()
    with pytest.raises(CheckpointError, match=f"{lost} must be readable"):
        load_checkpoint(path)


def test_a_damaged_newest_falls_back_on_the_one_before_and_says_so(tmp_path):
    save(tmp_path, 5)
    damage(save(tmp_path, 10) / "tensors.safetensors")
    checkpoint, faults = load_latest(tmp_path)
    assert checkpoint.path.name == "update-00000005"
    assert len(faults) == 1
    assert "update-00000010" in faults[0]


def test_a_run_without_a_usable_checkpoint_says_what_is_wrong_with_each(tmp_path):
    with pytest.raises(CheckpointError, match="none was written"):
        load_latest(tmp_path)
    for updates in (5, 10):
        damage(save(tmp_path, updates) / "state.json")
    with pytest.raises(CheckpointError, match=r"00000010.*00000005"):
        load_latest(tmp_path)


def test_nothing_in_a_checkpoint_is_code(tmp_path):
    path = save(tmp_path, 5)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "state.json",
        "tensors.safetensors",
    ]
    header = (path / "tensors.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size]).keys() == tensors_at(5).keys()
