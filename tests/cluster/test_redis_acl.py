"""A shared Redis may give each project a user that reaches nothing but its own keys."""

from urllib.parse import urlsplit

import pytest
import redis

from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.ledger import CommitResult, Ledger, LedgerConfig
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import RedisServerError
from tests.cluster.test_ledger import record

RULES = ("~causeway:*", "&causeway:*", "+@all", "-@dangerous", "-@admin", "+info")  # SECURITY.md


@pytest.fixture
def user_url(server, client):
    """The server's URL for a user with the documented rules."""
    client.execute_command("ACL", "SETUSER", "causeway", "on", ">secret", *RULES)
    return f"unix://causeway:secret@{urlsplit(server.start()).path}"


def test_control_plane_and_ledger_work_for_a_user_of_their_keys_alone(user_url, tmp_path):
    with connect(user_url, LinkConfig()) as client:
        ledger = Ledger(client, "run-1", tmp_path / "spool.jsonl", LedgerConfig())
        control = Control(client, "run-1", ControlConfig())
        epoch = ledger.open_epoch()
        assert ledger.commit(record(0, epoch=epoch)) is CommitResult.COMMITTED
        assert ledger.counters().committed == 1
        control.set_collectors(3)
        assert control.heartbeat("driver", {"updates": 1})
        control.event("begun")
        assert control.commands().collectors == 3
        assert control.heartbeats()["driver"].state == {"updates": 1}
        assert [event.kind for event in control.latest_events(5)] == ["begun"]


def test_that_user_reaches_nothing_else(user_url):
    with connect(user_url, LinkConfig()) as client:
        for command in (
            lambda: client.set("theirs", "1"),
            lambda: client.get("theirs"),
            client.flushall,
            lambda: client.config_get("*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                command()


def test_a_wrong_password_is_told_without_it(user_url):
    with pytest.raises(RedisServerError) as raised:
        connect(user_url.replace("secret", "guess"), LinkConfig())
    assert "carries the password" in str(raised.value)
    assert "guess" not in str(raised.value)
