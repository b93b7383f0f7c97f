"""What a run's folder holds is compared with its ledger; only garbage is ever removed."""

import json
import threading

import numpy as np
import pytest

from causeway.cluster.cli.main import run as causeway
from causeway.cluster.config_io import ConfigError
from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.ledger import CommitResult, Ledger, LedgerConfig, ShardRecord
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis
from causeway.cluster.verify import remove_orphans, verify_run
from causeway.datasets.batches import Trajectory
from causeway.datasets.shards import write_shard
from tests.tiny_runs import outside_of, tiny_config

OK, FAILED, USER_ERROR = 0, 1, 2


def silent(completed, total):
    pass


@pytest.fixture
def gathered(tmp_path, tiny_data):
    """A run that has committed three shards, and left two files that it has not."""
    config = tiny_config(tmp_path, tiny_data, "--run.name", "gathered")
    folder = config.folder
    with EmbeddedRedis(folder), outside_of(folder, config.name) as (_, ledger):
        ledger.open_epoch()
        for number in range(3):
            assert ledger.commit(write(folder, number)) is CommitResult.COMMITTED
    write(folder, 3)
    (folder / "shards" / ".00000004-1.parquet.tmp").write_bytes(b"cut sho")
    return config


def write(folder, number):
    steps = 2 + number
    trajectory = Trajectory(
        observation=np.zeros((steps, 2), np.float32),
        action=np.zeros((steps, 2), np.float32),
        next_observation=np.ones((steps, 2), np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )
    path = f"shards/{number:08d}-1.parquet"
    file = write_shard(folder / path, [trajectory], 0)
    return ShardRecord(
        shard_id=f"{number:08d}",
        path=path,
        sha256=file.sha256,
        task_id=0,
        rows=file.rows,
        episodes=1,
        num_bytes=file.bytes,
        collector=0,
        generation=1,
        version=0,
        epoch=1,
    )


def test_committed_shards_are_sound_and_the_rest_are_orphans(gathered):
    found = verify_run(gathered, gathered.folder, silent)
    assert (found.committed, found.rows, found.faults) == (3, 2 + 3 + 4, ())
    names = {path.name for path in found.orphans}
    assert names == {"00000003-1.parquet", ".00000004-1.parquet.tmp"}
    assert not found.at_work


def test_only_orphans_are_removed(gathered):
    assert remove_orphans(verify_run(gathered, gathered.folder, silent)) == 2
    again = verify_run(gathered, gathered.folder, silent)
    assert (again.committed, again.faults, again.orphans) == (3, (), ())


def test_a_lost_and_a_changed_shard_are_named(gathered):
    shards = gathered.folder / "shards"
    (shards / "00000000-1.parquet").unlink()
    content = bytearray((shards / "00000002-1.parquet").read_bytes())
    content[9] ^= 1
    (shards / "00000002-1.parquet").write_bytes(bytes(content))
    lost, changed = verify_run(gathered, gathered.folder, silent).faults
    assert lost.startswith("shard 00000000: committed, but")
    assert changed.startswith("shard 00000002: shards/00000002-1.parquet must have")


def test_a_shard_that_the_log_holds_twice_is_named(gathered):
    folder = gathered.folder
    with EmbeddedRedis(folder) as url, connect(url, LinkConfig()) as client:
        ((key, _),) = [(k, None) for k in client.scan_iter("causeway:*:ledger")]
        ((_, fields),) = client.xrange(key, count=1)
        client.xadd(key, fields)
    twice, counted = verify_run(gathered, folder, silent).faults
    assert twice == "shard 00000000: committed 2 times"
    assert counted == "the ledger counts 3 shards, but its log holds 4"


def test_a_shard_whose_commit_waits_for_redis_is_no_orphan(gathered):
    folder = gathered.folder
    with EmbeddedRedis(folder) as url, connect(url, LinkConfig()) as client:
        ledger = Ledger(client, gathered.name, folder / "spool.jsonl", LedgerConfig())
    assert ledger.commit(write(folder, 5)) is CommitResult.SPOOLED
    (folder / "online").mkdir()
    (folder / "online" / "part-00000005.parquet").write_bytes(b"labelled meanwhile")
    found = verify_run(gathered, folder, silent)
    assert found.waiting == 1
    assert not {"00000005-1.parquet", "part-00000005.parquet"} & {p.name for p in found.orphans}
    assert ledger.num_spooled == 1


def test_a_labelled_part_without_a_committed_shard_is_an_orphan(gathered):
    online = gathered.folder / "online"
    online.mkdir()
    for number in (1, 7):
        (online / f"part-{number:08d}.parquet").write_bytes(b"as the stream wrote it")
    found = verify_run(gathered, gathered.folder, silent)
    assert found.labelled == 1
    assert online / "part-00000007.parquet" in found.orphans


def test_nothing_is_removed_while_the_run_is_at_work(gathered):
    folder = gathered.folder
    with EmbeddedRedis(folder), outside_of(folder, gathered.name) as (control, _):
        control.heartbeat("driver", {})
        found = verify_run(gathered, folder, silent)
        assert found.at_work
        with pytest.raises(ConfigError, match="Stop the run first"):
            remove_orphans(found)
    assert all(path.exists() for path in found.orphans)


def test_the_command_tells_and_cleans_and_ends_with_one_for_a_fault(gathered, capsys):
    folder = str(gathered.folder)
    assert causeway(["verify", folder, "--clean"]) == OK
    out = " ".join(capsys.readouterr().out.split())
    assert "3 shards with 9 rows committed once each" in out
    assert "not in the ledger, removed:" in out
    (gathered.folder / "shards" / "00000001-1.parquet").unlink()
    assert causeway(["verify", folder, "--json"]) == FAILED
    facts = json.loads(capsys.readouterr().out)
    assert (facts["committed"], len(facts["faults"]), facts["orphans"]) == (3, 1, [])


def test_a_serial_run_has_nothing_to_verify_and_is_told_so(tmp_path, tiny_data, capsys):
    config = tiny_config(tmp_path, tiny_data, "--run.name", "alone")
    assert causeway(["verify", str(config.folder)]) == USER_ERROR
    assert "has no ledger" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_is_asked_for_and_waited_for(gathered, capsys):
    folder = gathered.folder
    with EmbeddedRedis(folder) as url, connect(url, LinkConfig()) as client:
        assert causeway(["checkpoint", str(folder), "--timeout", "0.1"]) == FAILED
        assert causeway(["checkpoint", str(folder), "--timeout", "0"]) == OK
        driver = Control(client, gathered.name, ControlConfig())
        asked = driver.commands()
        assert asked.checkpoint_requested == 2

        def answer():
            while (commands := driver.commands()).checkpoint_requested < 3:
                pass
            driver.finish_checkpoint(commands)

        thread = threading.Thread(target=answer)
        thread.start()
        assert causeway(["checkpoint", str(folder), "--timeout", "20"]) == OK
        thread.join()
    assert "has a checkpoint of this moment" in " ".join(capsys.readouterr().out.split())
