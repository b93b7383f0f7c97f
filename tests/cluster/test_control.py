import os
import signal
import time

import pytest

from causeway.cluster.control import Commands, Control, ControlConfig
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, connect

IMPATIENT = LinkConfig(retry_every_s=0.01)


@pytest.fixture
def control(client):
    return Control(client, "run-1", ControlConfig(link=IMPATIENT))


@pytest.fixture
def console(server):
    """The same run as someone at another terminal sees it."""
    client = connect(server.start(), LinkConfig())
    yield Control(client, "run-1", ControlConfig(link=IMPATIENT))
    client.close()


def kill(server):
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.005)


def bring_back(server):
    server.ensure_running()
    time.sleep(0.5)  # longer than a link on a busy machine holds back


def test_a_run_that_nobody_asked_anything_goes_by_its_configuration(control):
    assert control.commands() == Commands()
    assert not control.commands().checkpoint_due


def test_a_run_hears_what_is_asked_elsewhere(control, console):
    console.set_collectors(7)
    console.pause()
    assert control.commands() == Commands(collectors=7, paused=True)
    console.unpause()
    console.request_stop("the node goes away")
    assert control.commands() == Commands(collectors=7, stop="the node goes away")
    control.begin(2)
    assert control.commands() == Commands(collectors=7)


def test_a_number_of_collectors_that_was_asked_for_holds_until_another_one_is_configured(
    control, console
):
    control.begin(2)
    console.set_collectors(7)
    control.begin(2)
    assert control.commands().collectors == 7
    control.begin(3)
    assert control.commands().collectors is None


def test_every_request_for_a_checkpoint_is_answered_once(control, console):
    assert console.request_checkpoint() == 1
    heard = control.commands()
    assert heard.checkpoint_due
    assert console.request_checkpoint() == 2  # while the first one is being written
    control.finish_checkpoint(heard)
    assert control.commands().checkpoint_due
    control.finish_checkpoint(control.commands())
    assert not console.commands().checkpoint_due


def test_the_last_commands_hold_while_redis_is_away(server, control, console):
    console.set_collectors(3)
    console.pause()
    control.commands()
    kill(server)
    assert control.commands() == Commands(collectors=3, paused=True)
    assert not control.heartbeat("driver", {})
    with pytest.raises(RedisAwayError):
        console.unpause()
    bring_back(server)
    console.unpause()
    assert control.commands() == Commands(collectors=3)


def test_the_last_commands_are_given_back_to_a_server_that_lost_its_data(client, control, console):
    console.pause()
    control.commands()
    client.flushall()
    assert control.commands() == Commands(paused=True)
    assert console.commands() == Commands(paused=True)


def test_heartbeats_tell_age_and_state_of_every_part(control, console):
    assert control.heartbeat("collector-0", {"episodes": 5})
    time.sleep(0.2)
    assert control.heartbeat("driver", {"stage": "offline"})
    found = console.heartbeats()
    assert list(found) == ["collector-0", "driver"]
    assert found["driver"].state == {"stage": "offline"}
    assert 0.2 <= found["collector-0"].age_s < 5.0
    assert found["driver"].age_s < found["collector-0"].age_s
    control.remove("collector-0")
    assert list(console.heartbeats()) == ["driver"]


def test_events_are_read_in_order_and_from_a_place(control, console):
    for number in range(5):
        control.event("checkpoint", number=number)
    first = console.events(None, 2)
    assert [(event.kind, event.fields["number"]) for event in first] == [
        ("checkpoint", 0),
        ("checkpoint", 1),
    ]
    assert [e.fields["number"] for e in console.events(first[-1].place, 100)] == [2, 3, 4]
    assert [e.fields["number"] for e in console.latest_events(2)] == [3, 4]
    assert abs(first[0].time_s - time.time()) < 60.0


def test_events_wait_while_redis_is_away_and_the_oldest_are_given_up(server, client):
    control = Control(client, "run-1", ControlConfig(max_waiting_events=3, link=IMPATIENT))
    control.event("start")
    kill(server)
    for number in range(5):
        control.event("death", number=number)
    bring_back(server)
    control.event("back")
    kinds = [(event.kind, event.fields.get("number")) for event in control.events(None, 100)]
    assert kinds == [("start", None), ("death", 3), ("death", 4), ("back", None)]
    assert control.num_lost_events == 3


def test_a_waiting_event_needs_no_other_one_to_be_heard(server, control):
    kill(server)
    control.event("last words")
    bring_back(server)
    assert control.heartbeat("driver", {})
    assert [event.kind for event in control.events(None, 10)] == ["last words"]


def test_the_event_stream_stays_bounded(client):
    control = Control(client, "run-1", ControlConfig(max_events=100, link=IMPATIENT))
    for number in range(1_000):
        control.event("tick", number=number)
    assert len(control.events(None, 10_000)) < 400  # trimmed in whole nodes of a hundred


def test_a_negative_number_of_collectors_is_refused(control):
    with pytest.raises(ValueError, match="at least 0, got -1"):
        control.set_collectors(-1)


@pytest.mark.parametrize("field", ["max_events", "max_waiting_events"])
def test_a_bad_setting_is_refused_by_name(field):
    with pytest.raises(ValueError, match=rf"ControlConfig\.{field}"):
        ControlConfig(**{field: 0})
