"""Whether a run's shards are what its ledger says: each file on storage committed once, or garbage.

    shards/  --the ledger's log-->  committed once, and unchanged since
    online/  --the ledger's log-->  labelled from a committed shard

It reads a run's folder and its ledger and changes neither, unless orphans are to be removed.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from causeway.cluster.config import RunConfig
from causeway.cluster.config_io import ConfigError
from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.ledger import Ledger, LedgerConfig, ShardRecord, waiting_records
from causeway.cluster.naming import ONLINE_NAME, SHARDS_NAME, SPOOL_NAME
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis, RedisServerError, embedded_url
from causeway.datasets.parts import sha256_of

DRIVER_SILENCE_S = 15.0  # a driver that has said nothing for so long is taken for dead


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found; a run is sound where there is no fault. Orphans are garbage, not faults."""

    committed: int  # shards in the ledger
    rows: int  # in these
    waiting: int  # shards whose commits wait in the run's spool
    labelled: int  # of both, taken into the buffers
    orphans: tuple[Path, ...]  # files that the ledger does not hold
    faults: tuple[str, ...]
    at_work: bool  # then a file may be an orphan only because its commit is still on the way


def verify_run(
    config: RunConfig, folder: Path, progress: Callable[[int, int], None]
) -> Verification:
    """Compares a run's files with its ledger, every file read.

    Args:
        config: of the run.
        folder: the run's own.
        progress: is told how many shards of how many have been read.

    Raises:
        ConfigError: the run was serial, so that there is no ledger.
        RedisServerError: the run's Redis cannot be reached or started.
    """
    with _run_redis(config, folder) as client:
        # A spool of its own, which stays empty: that of the run may be at work.
        ledger = Ledger(client, config.name, folder / "verify.jsonl", LedgerConfig())
        records, _ = ledger.records(None)
        counted = ledger.counters().committed
        driver = Control(client, config.name, ControlConfig()).heartbeats().get("driver")
    at_work = driver is not None and driver.age_s < DRIVER_SILENCE_S
    faults = _faults_of_log(records)
    if counted != len(records) and not at_work:  # at work: it may have grown between two looks
        faults.append(f"the ledger counts {counted} shards, but its log holds {len(records)}")
    for number, record in enumerate(records):
        progress(number, len(records))
        faults += _faults_of_shard(folder, record)
    progress(len(records), len(records))
    waiting = waiting_records(folder / SPOOL_NAME)
    known = {(folder / record.path).name for record in (*records, *waiting)}
    parts = {f"part-{record.shard_id}.parquet" for record in (*records, *waiting)}
    labelled = [path for path in _files(folder / ONLINE_NAME) if path.name in parts]
    orphans = [path for path in _files(folder / SHARDS_NAME) if path.name not in known]
    orphans += [path for path in _files(folder / ONLINE_NAME) if path.name not in parts]
    return Verification(
        committed=len(records),
        rows=sum(record.rows for record in records),
        waiting=len(waiting),
        labelled=len(labelled),
        orphans=tuple(orphans),
        faults=tuple(faults),
        at_work=at_work,
    )


def remove_orphans(found: Verification) -> int:
    """Deletes what the ledger does not hold; gives how many files that were.

    Raises:
        ConfigError: the run is at work, so that some of it may yet be committed.
    """
    if found.at_work:
        raise ConfigError(
            "orphans can be removed only while the run is not at work, but its driver was heard "
            "just now: what looks like one may be on its way into the ledger. Stop the run first"
        )
    for path in found.orphans:
        path.unlink(missing_ok=True)
    return len(found.orphans)


@contextlib.contextmanager
def _run_redis(config: RunConfig, folder: Path) -> Iterator[redis.Redis]:
    """The run's Redis: a shared one, its own that is up, or its own started for this."""
    url = config.redis.shared_url or embedded_url(folder)
    if url is not None:
        try:
            client = connect(url, LinkConfig())
        except RedisServerError:
            if config.redis.shared_url is not None:
                raise  # else: left by a run that was killed
        else:
            with contextlib.closing(client):
                yield client
            return
    if not (folder / "redis").is_dir():
        raise ConfigError(
            f"{folder} must be a distributed run's to be verified, but it has no ledger: a serial "
            "run commits nothing"
        )
    with EmbeddedRedis(folder) as own, contextlib.closing(connect(own, LinkConfig())) as client:
        yield client


def _faults_of_log(records: list[ShardRecord]) -> list[str]:
    times = Counter(record.shard_id for record in records)
    return [f"shard {name}: committed {n} times" for name, n in times.items() if n > 1]


def _faults_of_shard(folder: Path, record: ShardRecord) -> list[str]:
    try:
        content = (folder / record.path).read_bytes()
    except OSError as error:
        return [f"shard {record.shard_id}: committed, but {error}"]
    found = sha256_of(content)
    if found != record.sha256:
        return [f"shard {record.shard_id}: {record.path} must have {record.sha256}, got {found}"]
    return []


def _files(folder: Path) -> list[Path]:
    """The files in a folder, also what an interrupted write has left there."""
    return sorted(path for path in folder.glob("*") if path.is_file())
