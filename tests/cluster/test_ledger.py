import contextlib
import hashlib
import os
import signal
import threading
import time

import pytest

from causeway.cluster.ledger import CommitResult, Counters, Ledger, LedgerConfig, ShardRecord
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, connect
from causeway.cluster.spool import Spool

IMPATIENT = LinkConfig(retry_every_s=0.01)


def record(number, *, epoch=1, content=None, collector=0):
    content = f"content {number}" if content is None else content
    return ShardRecord(
        shard_id=f"collector-{collector}/{number:06d}",
        path=f"rollouts/collector-{collector}/{number:06d}.parquet",
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        task_id=number % 7,
        rows=100,
        episodes=5,
        num_bytes=4_000,
        collector=collector,
        generation=1,
        version=number,
        epoch=epoch,
    )


@pytest.fixture
def open_ledger(client, tmp_path):
    def open_one(name="driver", **limits):
        config = LedgerConfig(link=IMPATIENT, **limits)
        return Ledger(client, "run-1", tmp_path / "spool" / f"{name}.jsonl", config)

    return open_one


def kill(server):
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.005)


def bring_back(server):
    server.ensure_running()
    time.sleep(0.5)  # longer than a link on a busy machine holds back


def reconcile_when_back(ledger):
    deadline = time.monotonic() + 20.0
    while ledger.num_spooled:
        assert time.monotonic() < deadline, "the spool was never emptied"
        with contextlib.suppress(RedisAwayError):
            ledger.reconcile()
        time.sleep(0.02)


def test_a_shard_is_committed_once_and_then_a_duplicate(open_ledger):
    ledger = open_ledger()
    assert ledger.open_epoch() == 1
    assert ledger.commit(record(0)) is CommitResult.COMMITTED
    assert ledger.commit(record(0)) is CommitResult.DUPLICATE
    assert ledger.records(None)[0] == [record(0)]
    assert ledger.counters() == Counters(
        committed=1, rows=100, episodes=5, bytes=4_000, duplicate=1
    )


def test_the_same_shard_with_other_content_is_a_conflict_and_the_first_stays(open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    ledger.commit(record(0))
    assert ledger.commit(record(0, content="other")) is CommitResult.CONFLICT
    assert ledger.records(None)[0] == [record(0)]
    assert ledger.counters().conflict == 1


def test_a_collector_of_an_older_epoch_is_fenced(open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    ledger.commit(record(0, epoch=1))
    assert ledger.open_epoch() == 2
    assert ledger.commit(record(1, epoch=1)) is CommitResult.FENCED
    assert ledger.commit(record(1, epoch=2)) is CommitResult.COMMITTED
    assert [r.epoch for r in ledger.records(None)[0]] == [1, 2]
    assert ledger.counters().fenced == 1


def test_runs_on_one_server_do_not_mix(client, tmp_path):
    first, second = (
        Ledger(client, name, tmp_path / f"{name}.jsonl", LedgerConfig()) for name in ("a", "b")
    )
    first.open_epoch()
    first.commit(record(0))
    assert second.epoch() == 0
    assert second.records(None) == ([], None)


def test_records_are_read_on_from_where_the_last_reading_ended(open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    for number in range(3):
        ledger.commit(record(number))
    first, place = ledger.records(None)
    assert [r.version for r in first] == [0, 1, 2]
    assert ledger.records(place) == ([], place)
    ledger.commit(record(3))
    later, place = ledger.records(place)
    assert [r.version for r in later] == [3]


def test_commits_wait_in_the_spool_while_redis_is_away_and_keep_their_order(server, open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    ledger.commit(record(0))
    kill(server)
    assert ledger.commit(record(1)) is CommitResult.SPOOLED
    assert ledger.commit(record(2)) is CommitResult.SPOOLED
    assert ledger.num_spooled == 2
    assert ledger.away_s > 0.0
    bring_back(server)
    assert ledger.commit(record(3)) is CommitResult.COMMITTED
    assert ledger.num_spooled == 0
    assert [r.version for r in ledger.records(None)[0]] == [0, 1, 2, 3]


def test_a_full_spool_refuses_and_the_process_lives_on(server, open_ledger):
    ledger = open_ledger(spool_records=1)
    ledger.open_epoch()
    kill(server)
    assert ledger.commit(record(0)) is CommitResult.SPOOLED
    assert ledger.commit(record(1)) is CommitResult.REFUSED
    bring_back(server)
    assert ledger.reconcile() == [(record(0), CommitResult.COMMITTED)]


def test_a_restarted_process_commits_its_spool_before_the_new_epoch_fences_it(server, open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    kill(server)
    ledger.commit(record(0))
    bring_back(server)
    restarted = open_ledger()
    assert restarted.open_epoch() == 2
    assert restarted.records(None)[0] == [record(0)]


def test_reconcile_says_what_became_of_each_shard(server, open_ledger, client):
    ledger, other = open_ledger("collector-0"), open_ledger("driver")
    ledger.open_epoch()
    ledger.commit(record(0))
    kill(server)
    for late in (record(0), record(0, content="other"), record(1)):
        ledger.commit(late)
    with pytest.raises(RedisAwayError):
        ledger.reconcile()
    bring_back(server)
    assert [answer for _, answer in ledger.reconcile()] == [
        CommitResult.DUPLICATE,
        CommitResult.CONFLICT,
        CommitResult.COMMITTED,
    ]
    assert other.counters().committed == 2


def test_a_damaged_line_of_the_spool_is_given_up_and_the_rest_is_committed(open_ledger, tmp_path):
    spool = tmp_path / "spool" / "driver.jsonl"
    spool.parent.mkdir()
    spool.write_text("\n".join([record(0).to_json(), "no record", record(1).to_json(), ""]))
    ledger = open_ledger()
    ledger.open_epoch()
    assert [r.version for r in ledger.records(None)[0]] == [0, 1]
    assert (ledger.num_unreadable, ledger.num_spooled) == (1, 0)


def test_no_answered_commit_is_lost_when_redis_is_killed_again_and_again(server, open_ledger):
    ledger = open_ledger()
    ledger.open_epoch()
    finished = threading.Event()
    answers = {}

    def commit_all():
        for number in range(1_500):
            answers[number] = ledger.commit(record(number))
        finished.set()

    thread = threading.Thread(target=commit_all)
    thread.start()
    while not finished.wait(0.05):
        kill(server)
        server.ensure_running()
    thread.join()
    reconcile_when_back(ledger)
    assert set(answers.values()) <= {
        CommitResult.COMMITTED,
        CommitResult.DUPLICATE,  # committed, but the answer was lost with the server
        CommitResult.SPOOLED,
    }
    assert [r.version for r in ledger.records(None)[0]] == list(range(1_500))
    assert ledger.counters().rows == 150_000


def test_committers_at_the_same_time_commit_each_shard_once(server, tmp_path):
    answers = []

    def commit_all(index):
        client = connect(server.start(), LinkConfig())
        ledger = Ledger(client, "run-1", tmp_path / f"{index}.jsonl", LedgerConfig())
        answers.extend(ledger.commit(record(number)) for number in range(200))
        client.close()

    threads = [threading.Thread(target=commit_all, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(CommitResult.COMMITTED) == 200
    assert answers.count(CommitResult.DUPLICATE) == 600


def test_a_server_that_lost_its_data_still_fences_older_epochs(client, open_ledger):
    ledger = open_ledger()
    for _ in range(3):
        ledger.open_epoch()
    client.flushall()
    assert ledger.commit(record(0, epoch=3)) is CommitResult.COMMITTED
    assert ledger.commit(record(1, epoch=2)) is CommitResult.FENCED
    assert ledger.open_epoch() == 4


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", "ABC"), ("rows", -1), ("shard_id", ""), ("epoch", -1)]
)
def test_a_bad_record_is_refused_by_the_name_of_its_field(field, value):
    fields = {name: getattr(record(0), name) for name in ShardRecord.__dataclass_fields__}
    with pytest.raises(ValueError, match=rf"ShardRecord\.{field}"):
        ShardRecord(**{**fields, field: value})


def test_a_record_survives_json_and_a_later_versions_fields():
    text = record(5).to_json()
    assert ShardRecord.from_json(text) == record(5)
    assert ShardRecord.from_json(text.replace("{", '{"new": 1, ', 1)) == record(5)


def test_a_line_that_a_crash_cut_short_is_not_taken_for_a_line(tmp_path):
    path = tmp_path / "spool.jsonl"
    assert Spool(path, 10).append("one")
    with path.open("a") as file:
        file.write('{"shard_id": "to')
    reopened = Spool(path, 10)
    assert reopened.lines() == ["one"]
    reopened.append("two")
    assert Spool(path, 10).lines() == ["one", "two"]


def test_a_spool_forgets_the_oldest_lines_first(tmp_path):
    spool = Spool(tmp_path / "spool.jsonl", 3)
    assert [spool.append(line) for line in "abcd"] == [True, True, True, False]
    spool.drop_first(2)
    assert Spool(tmp_path / "spool.jsonl", 3).lines() == ["c"]
    with pytest.raises(ValueError, match="line break"):
        spool.append("a\nb")
