"""A tiny run on a Ray that speaks TLS; a process of its own, for Ray reads settings at its import.

    python -m tests.cluster.tls_run TINY.yaml

Prints as JSON who has signed the certificate that Ray's head shows, and the updates of the run.
"""

import json
import os
import socket
import ssl
import sys
from pathlib import Path

import ray

from causeway.cluster.config import load_run_config, save_run_config
from causeway.cluster.ray_local import RayConfig, ray_session
from tests.tiny_runs import distributed_run, results_of


def issuer_of(address):
    """The common name of the authority behind the server at host:port."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=os.environ["RAY_TLS_CA_CERT"])
    context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    with (
        socket.create_connection((host, int(port)), 10.0) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        (((_, name),),) = connection.getpeercert()["issuer"]
    return name


def main():
    config = load_run_config(Path(sys.argv[1]))
    save_run_config(config, config.folder)
    with ray_session(RayConfig(num_cpus=8, object_store_bytes=200_000_000)):
        issuer = issuer_of(ray.get_runtime_context().gcs_address)
        with distributed_run(config) as run:
            assert run.run(lambda: False)
    print(json.dumps({"issuer": issuer, "updates": results_of(config.folder)["updates"]}))


if __name__ == "__main__":
    main()
