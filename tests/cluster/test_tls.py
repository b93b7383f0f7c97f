"""TLS with the certificates that the pods of deploy/ make: to Redis and between Ray's processes."""

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from causeway.cluster.config import load_run_config
from causeway.cluster.ledger import CommitResult
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import URL_VARIABLE, RedisServerError, find_server_binary
from causeway.cluster.services import run_services
from tests.cluster.test_ledger import record
from tests.cluster.test_redis_acl import RULES
from tests.tiny_runs import write_yaml

CERTIFICATE = Path(__file__).parents[2] / "deploy" / "kuberay" / "tls" / "certificate.sh"
AUTHORITY = (  # as deploy/kuberay/tls/kustomization.yaml makes one
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    "-subj /CN=authority -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt"
)
SERVER = "CAUSEWAY_TLS_REDIS"  # a server to take where those on PATH have no TLS
START_S = 10.0


def make_authority(folder):
    folder.mkdir()
    subprocess.run(shlex.split(AUTHORITY), cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two authorities, `ours` and `theirs`, and a node's certificate of the first, in `node`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    ours = make_authority(folder / "ours")
    make_authority(folder / "theirs")
    (folder / "node").mkdir()
    command = ["sh", str(CERTIFICATE), str(ours), str(folder / "node")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def servers():
    """The servers that there are; not each is built with TLS."""
    named = os.environ.get(SERVER, "")
    found = [shutil.which(name) for name in (named, "valkey-server", "redis-server")]
    with contextlib.suppress(RedisServerError):
        found.append(str(find_server_binary()))
    return list(dict.fromkeys(path for path in found if path is not None))


@contextlib.contextmanager
def started(binary, certificates, folder):
    """A server at work with TLS alone; gives its port, or None if it cannot do that."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = certificates / "node"
    acl = folder / "users.acl"
    acl.write_text(f"user default off\nuser causeway on >secret {' '.join(RULES)}\n")
    options = {
        **{"port": "0", "tls-port": str(port), "dir": str(folder)},
        **{"tls-cert-file": str(node / "tls.crt"), "tls-key-file": str(node / "tls.key")},
        **{"tls-ca-cert-file": str(node / "ca.crt"), "tls-auth-clients": "no"},
        **{"aclfile": str(acl), "save": "", "logfile": str(folder / "server.log")},
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--bind", "127.0.0.1", "127.0.0.2"]  # the certificate names the first alone
    process = subprocess.Popen([binary, *words], stdout=subprocess.DEVNULL)
    try:
        yield port if _listens(process, port) else None
    finally:
        process.terminate()
        process.wait()


def _listens(process, port):
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def port(certificates, tmp_path_factory):
    """Of a server that speaks TLS alone, with the documented user alone."""
    for binary in servers():
        with started(binary, certificates, tmp_path_factory.mktemp("server")) as found:
            if found is not None:
                yield found
                return
    pytest.skip("no Redis or Valkey that is built with TLS is on PATH; Debian's redis-server is")


def url(port, authority, *, host="127.0.0.1", password="secret"):
    query = f"?ssl_ca_certs={authority}/ca.crt" if authority is not None else ""
    return f"rediss://causeway:{password}@{host}:{port}/0{query}"


def test_a_runs_services_work_over_tls_as_a_user_of_their_keys_alone(
    port, certificates, tmp_path, monkeypatch
):
    monkeypatch.setenv(URL_VARIABLE, url(port, certificates / "ours"))
    config = load_run_config(None, ["--run.name", "over-tls", "--run.folder", str(tmp_path)])
    with run_services(config, tmp_path) as services:
        assert services.redis.server is None
        epoch = services.ledger.open_epoch()
        services.control.begin(2)
        assert services.ledger.commit(record(0, epoch=epoch)) is CommitResult.COMMITTED
        assert services.ledger.commit(record(0, epoch=epoch)) is CommitResult.DUPLICATE
        records, _ = services.ledger.records(None)
        assert [each.shard_id for each in records] == [record(0, epoch=epoch).shard_id]
        services.control.set_collectors(3)
        assert services.control.commands().collectors == 3
        assert services.control.heartbeat("driver", {"updates": 1})
        services.control.event("begun")
        assert [event.kind for event in services.control.latest_events(5)] == ["begun"]
    with connect(url(port, certificates / "ours", host="localhost"), LinkConfig()) as client:
        assert client.exists("causeway:{over-tls}:ledger")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("theirs")


@pytest.mark.parametrize(
    ("authority", "host"), [("theirs", "127.0.0.1"), (None, "127.0.0.1"), ("ours", "127.0.0.2")]
)
def test_a_certificate_of_another_authority_or_host_is_refused_in_words(
    port, certificates, authority, host
):
    folder = certificates / authority if authority is not None else None
    with pytest.raises(RedisServerError) as raised:
        connect(url(port, folder, host=host), LinkConfig())
    told = str(raised.value)
    assert "is not trusted" in told
    assert "ssl_ca_certs" in told
    assert "secret" not in told


def test_other_mistakes_are_told_as_what_they_are(port, certificates):
    with pytest.raises(RedisServerError, match="carries the password"):
        connect(url(port, certificates / "ours", password="guess"), LinkConfig())
    plain = url(port, None).replace("rediss", "redis")
    with pytest.raises(RedisServerError, match="begins with rediss://"):
        connect(plain, LinkConfig())
    with pytest.raises(RedisServerError, match=r"No such file.*files named in the URL are there"):
        connect(url(port, certificates / "nowhere"), LinkConfig())


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_works_on_a_ray_that_speaks_tls(certificates, tmp_path, tiny_data):
    node = certificates / "node"
    settings = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(node / "tls.crt"),
        "RAY_TLS_SERVER_KEY": str(node / "tls.key"),
        "RAY_TLS_CA_CERT": str(node / "ca.crt"),
    }
    found = subprocess.run(
        [sys.executable, "-m", "tests.cluster.tls_run", str(write_yaml(tmp_path, tiny_data))],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
    ).stdout
    assert json.loads(found.splitlines()[-1]) == {"issuer": "authority", "updates": 40}
