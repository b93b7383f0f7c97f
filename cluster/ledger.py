"""The ledger: which shards of rollouts belong to a run, each committed exactly once.

A collector writes a shard's file first and commits it here second, so a file that the ledger does
not know is garbage and may be deleted. Committing is one script that runs atomically on the server:
it refuses the collectors of an older epoch, knows a shard by its name and content, counts, and
appends to the log that `records` reads. While Redis is away commits wait in a local spool.
"""

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import redis

from causeway.cluster.full_disk import is_full_disk
from causeway.cluster.naming import redis_key
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, RedisLink
from causeway.cluster.spool import Spool

# KEYS: epoch, contents, log, counters. ARGV: epoch, shard, sha256, rows, episodes, bytes, record.
# An epoch above the server's own means that the server has lost data (a restored backup, an
# emptied volume): it takes the higher one, so that older collectors stay fenced.
COMMIT_SCRIPT = """
local epoch = tonumber(ARGV[1])
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
if epoch < current then
  redis.call('HINCRBY', KEYS[4], 'fenced', 1)
  return 'fenced'
elseif epoch > current then
  redis.call('SET', KEYS[1], ARGV[1])
end
local content = redis.call('HGET', KEYS[2], ARGV[2])
if content then
  local answer = content == ARGV[3] and 'duplicate' or 'conflict'
  redis.call('HINCRBY', KEYS[4], answer, 1)
  return answer
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[4], 'committed', 1)
redis.call('HINCRBY', KEYS[4], 'rows', ARGV[4])
redis.call('HINCRBY', KEYS[4], 'episodes', ARGV[5])
redis.call('HINCRBY', KEYS[4], 'bytes', ARGV[6])
redis.call('XADD', KEYS[3], '*', 'record', ARGV[7])
return 'committed'
"""


class CommitResult(Enum):
    """What became of a commit. `COMMITTED` and `DUPLICATE` both mean: the ledger holds the shard.

    A commit whose answer was lost on the way is answered `DUPLICATE` when it is sent again, so a
    consumer must go by `Ledger.records` and never by having seen `COMMITTED`.
    """

    COMMITTED = "committed"
    DUPLICATE = "duplicate"  # same shard, same content: already there
    FENCED = "fenced"  # from an older epoch of the run: the shard is garbage
    CONFLICT = "conflict"  # same shard, other content: the first one stays
    SPOOLED = "spooled"  # Redis is away: waits in the spool for `reconcile`
    REFUSED = "refused"  # Redis is away and the spool or its disk is full: the shard is garbage


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One file of rollouts, as the ledger knows it."""

    shard_id: str  # unique in the run, such as "collector-3/000017"
    path: str  # relative to the run's folder, or any URI
    sha256: str  # of the file, lower-case hexadecimal
    task_id: int
    rows: int
    episodes: int
    num_bytes: int
    collector: int
    generation: int  # of the weights that acted
    version: int  # of the weights that acted, within the generation
    epoch: int  # the run's epoch in which the collector was started

    def __post_init__(self) -> None:
        if not self.shard_id:
            raise ValueError("ShardRecord.shard_id must name the shard, got an empty text")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(
                "ShardRecord.sha256 must be 64 lower-case hexadecimal digits, got "
                f"{self.sha256!r}: give hashlib.sha256(content).hexdigest()"
            )
        for name in ("rows", "episodes", "num_bytes", "epoch"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"ShardRecord.{name} must be at least 0, got {getattr(self, name)}"
                )

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record that `to_json` wrote; fields of a later version are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a run has committed so far, over all its epochs."""

    committed: int = 0
    rows: int = 0
    episodes: int = 0
    bytes: int = 0
    duplicate: int = 0
    fenced: int = 0
    conflict: int = 0


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """How much a process keeps for the ledger while Redis is away."""

    spool_records: int = 10_000
    link: LinkConfig = dataclasses.field(default_factory=LinkConfig)

    def __post_init__(self) -> None:
        if self.spool_records < 0:
            raise ValueError(
                f"LedgerConfig.spool_records must be at least 0, got {self.spool_records}"
            )


class Ledger:
    """The ledger of one run, seen by one process. A commit never waits and never fails for Redis.

    Args:
        client: of the run's Redis, made by `connect`.
        run: the run's name.
        spool_path: this process's own file of waiting commits, in the run's folder.
        config: limits and patience.
    """

    def __init__(
        self, client: redis.Redis, run: str, spool_path: Path, config: LedgerConfig
    ) -> None:
        self._link = RedisLink(client, config.link)
        self._spool = Spool(spool_path, config.spool_records)
        self._epoch_key = redis_key(run, "epoch")
        self._contents_key = redis_key(run, "shards")
        self._log_key = redis_key(run, "ledger")
        self._counters_key = redis_key(run, "counters")
        self._script = client.register_script(COMMIT_SCRIPT)
        self.num_unreadable = 0  # spooled lines that were damaged on the disk and given up

    @property
    def num_spooled(self) -> int:
        """How many commits wait for Redis to return."""
        return len(self._spool)

    @property
    def away_s(self) -> float:
        """For how long Redis has been away, seconds; 0 while it is there."""
        return self._link.away_s

    def open_epoch(self) -> int:
        """Begins a new epoch, from which on all collectors of earlier ones are fenced.

        What this process still has in its spool is committed first, under its own epoch.

        Raises:
            RedisAwayError: a run cannot begin without its ledger.
        """
        self.reconcile()
        return int(self._link.call(lambda client: client.incr(self._epoch_key)))

    def epoch(self) -> int:
        """The run's current epoch; 0 before the first.

        Raises:
            RedisAwayError: Redis does not answer.
        """
        return int(self._link.call(lambda client: client.get(self._epoch_key)) or 0)

    def commit(self, record: ShardRecord) -> CommitResult:
        """Commits a shard whose file is complete; while Redis is away, later.

        Commits keep their order: one that finds others in the spool goes there behind them, unless
        Redis has returned and takes them all.
        """
        try:
            self.reconcile()
            return self._send(record)
        except RedisAwayError:
            return CommitResult.SPOOLED if self._keep(record) else CommitResult.REFUSED

    def reconcile(self) -> list[tuple[ShardRecord, CommitResult]]:
        """Commits what waits in the spool and gives what became of each; empty if nothing waits.

        Raises:
            RedisAwayError: Redis is still away; what was not committed stays in the spool.
        """
        answers: list[tuple[ShardRecord, CommitResult]] = []
        num_settled = 0
        try:
            for line in self._spool.lines():
                record = _read_record(line)
                if record is None:
                    self.num_unreadable += 1
                else:
                    answers.append((record, self._send(record)))
                num_settled += 1
        finally:
            self._spool.drop_first(num_settled)
        return answers

    def records(self, after: str | None) -> tuple[list[ShardRecord], str | None]:
        """The shards in the order of their commits, and the place to read on from.

        Args:
            after: a place that an earlier call gave, or None for the beginning.

        Raises:
            RedisAwayError: Redis does not answer.
        """
        start = "-" if after is None else f"({after}"
        entries: Any = self._link.call(lambda client: client.xrange(self._log_key, min=start))
        records = [ShardRecord.from_json(fields["record"]) for _, fields in entries]
        return records, entries[-1][0] if entries else after

    def counters(self) -> Counters:
        """The run's counters.

        Raises:
            RedisAwayError: Redis does not answer.
        """
        found: Any = self._link.call(lambda c: c.hgetall(self._counters_key))
        return Counters(**{name: int(value) for name, value in found.items()})

    def _keep(self, record: ShardRecord) -> bool:
        """Puts a record into the spool; False where there is no room for it."""
        try:
            return self._spool.append(record.to_json())
        except OSError as error:
            if not is_full_disk(error):
                raise
            return False

    def _send(self, record: ShardRecord) -> CommitResult:
        keys = [self._epoch_key, self._contents_key, self._log_key, self._counters_key]
        arguments: list[str | int] = [record.epoch, record.shard_id, record.sha256]
        arguments += [record.rows, record.episodes, record.num_bytes, record.to_json()]
        answer = self._link.call(lambda client: self._script(keys, arguments, client=client))
        return CommitResult(answer)


def waiting_records(spool_path: Path) -> list[ShardRecord]:
    """The commits that wait in a spool, read without touching it: another process may write it."""
    try:
        lines = spool_path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _read_record(line)) is not None]


def _read_record(line: str) -> ShardRecord | None:
    try:
        return ShardRecord.from_json(line)
    except (ValueError, TypeError):
        return None
