"""Starting a Ray of the run's own on this machine, or joining one that runs already.

Ray reads some of its settings when it is first imported and listens on every interface unless told
otherwise, so a run starts it through this module and never by itself.
"""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from causeway.cluster.admission import joined_cluster_is_open, refusal
from causeway.cluster.naming import NAMESPACE

LOCAL = "local"
START_ATTEMPTS = 3  # a raylet may abort while it boots on a busy machine
CONNECT_TIMEOUT_S = 5.0
MIN_OBJECT_STORE_BYTES = 80_000_000  # Ray refuses less

LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback interface alone
    "RAY_worker_niceness": "0",  # the default of 15 starves collectors beside a learner on the CPU
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayStartError(RuntimeError):
    """A Ray that cannot be started or joined, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Which Ray a run uses, and how a local one is made."""

    address: str = LOCAL  # "local", "auto" or the address of a running cluster
    num_cpus: int | None = None  # of a local Ray; None: all of this machine's
    object_store_bytes: int = 1_000_000_000  # of a local Ray
    dashboard: bool = False  # of a local Ray
    worker_logs: bool = False  # show what actors print in this terminal
    allow_cluster_without_token: bool = False  # whoever reaches such a cluster may run code there

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError(
                "RayConfig.address must be given, got an empty text: say 'local', 'auto' or an "
                "address, for without one Ray may join a cluster that a past run left behind"
            )
        if self.address not in (LOCAL, "auto") and not self.host_and_port:
            raise ValueError(
                "RayConfig.address must be 'local', 'auto' or the host:port of a cluster's head, "
                f"got {self.address!r}: to use a cluster from outside, submit the run as a job"
            )
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ValueError(f"RayConfig.num_cpus must be at least 1, got {self.num_cpus}")
        if self.object_store_bytes < MIN_OBJECT_STORE_BYTES:
            raise ValueError(
                f"RayConfig.object_store_bytes must be at least {MIN_OBJECT_STORE_BYTES}, got "
                f"{self.object_store_bytes}: weights and rollouts in flight live there"
            )

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """The address of the cluster's head where one is given, else None."""
        host, _, port = self.address.rpartition(":")
        is_address = bool(host) and "/" not in host and port.isdecimal()
        return (host.strip("[]"), int(port)) if is_address else None

    @property
    def is_local(self) -> bool:
        """Whether the run starts a Ray of its own."""
        return self.address == LOCAL


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[str | None]:
    """A started or joined Ray, left at the end; gives its dashboard's URL if it has one.

    A local Ray ends with the session and everything in it; a joined one goes on without us.

    Raises:
        RayStartError: it could not be started or joined.
    """
    import ray

    start_ray(config)
    try:
        yield _dashboard_url()
    finally:
        ray.shutdown()


def start_ray(config: RayConfig) -> None:
    """Starts or joins Ray in this process.

    Raises:
        RayStartError: it could not be started or joined, or it admits anyone, or this process
            already has one.
    """
    _check_reachable(config)
    if config.is_local:
        _restrict_to_this_machine()
        _keep_token_private()
    import ray

    if ray.is_initialized():
        raise RayStartError(
            "Ray must not be started before the run does it, but this process already has one: "
            "call ray.shutdown() first"
        )
    options = _local_options(config) if config.is_local else {"address": config.address}
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                **options,
                namespace=NAMESPACE,
                logging_level=logging.ERROR,
                log_to_driver=config.worker_logs,
            )
            break
        except Exception as error:
            ray.shutdown()
            if attempt == START_ATTEMPTS or not config.is_local:
                raise RayStartError(_explain(config, error, answered=True)) from error
    if not config.is_local and not config.allow_cluster_without_token and joined_cluster_is_open():
        ray.shutdown()
        raise RayStartError(refusal(config.address))


def _check_reachable(config: RayConfig) -> None:
    """Raises an error where nothing answers: Ray itself would end the whole process."""
    if config.host_and_port is None:
        return
    try:
        socket.create_connection(config.host_and_port, CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise RayStartError(_explain(config, error, answered=False)) from error


def _restrict_to_this_machine() -> None:
    """Makes a Ray started from this process listen on the loopback interface alone."""
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray reads the first of them at its import, which may have happened long ago.
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None and os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]


def _keep_token_private() -> None:
    """Closes the folder to others in which Ray keeps the token that admits to this user's Ray."""
    # Ray writes the file readable by everyone.
    folder = Path.home() / ".ray"
    with contextlib.suppress(OSError):  # a read-only home: Ray itself says what it needs
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def _local_options(config: RayConfig) -> dict[str, Any]:
    if config.dashboard and importlib.util.find_spec("aiohttp") is None:
        raise RayStartError(
            "RayConfig.dashboard must be false where Ray's extra for it is missing, got true: "
            "pip install 'ray[default]', or go without the dashboard and Ray's metrics"
        )
    return {
        "address": LOCAL,
        "num_cpus": config.num_cpus,
        "object_store_memory": config.object_store_bytes,
        "include_dashboard": config.dashboard,
    }


def _dashboard_url() -> str | None:
    from ray._private import worker

    address: str | None = worker.get_dashboard_url()  # type: ignore[no-untyped-call]
    return f"http://{address}" if address else None


def _explain(config: RayConfig, error: Exception, *, answered: bool) -> str:
    if config.is_local:
        return (
            f"Ray did not start on this machine in {START_ATTEMPTS} attempts ({error}): check free "
            "memory and disk space, and the logs of Ray's last session (by default they are in "
            "/tmp/ray/session_latest/logs)"
        )
    advice = "check the address, and that the cluster runs and can be reached from here"
    if answered:
        advice += (
            "; where it asks for its token, set RAY_AUTH_MODE=token and give the cluster's own in "
            "RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
        )
    return f"Ray could not be joined at {config.address!r} ({error}): {advice}"


class StopSignal:
    """Notes that the process was asked to end, so that the run can finish in order.

    Entered after Ray has started, because Ray installs handlers of its own. From the main thread
    only. The handlers of before come back at the exit.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals
        self._event = threading.Event()
        self._before: dict[signal.Signals, Any] = {}
        self.name: str | None = None  # of the signal that came

    def __enter__(self) -> Self:
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def is_set(self) -> bool:
        """Whether one of the signals has come."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Waits for a signal, at most so long; gives whether one has come."""
        return self._event.wait(timeout_s)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._event.is_set():  # asked a second time: whoever asks does not want to wait
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        self._event.set()
