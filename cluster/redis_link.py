"""A connection to Redis that may go away and come back while the run goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from causeway.cluster.redis_server import RedisServerError

Answer = TypeVar("Answer")

# No answer, or that of a server which is there but cannot serve now: memory full, a replica, a
# cluster that is electing. All pass, so they count as an absence. Loading is a ConnectionError.
ABSENCES = (
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    ReadOnlyError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
)
DISK_FULL = "MISCONF"  # the server cannot persist; the library has no class for it
NOT_TRUSTED = "CERTIFICATE_VERIFY_FAILED"  # OpenSSL's word; the library keeps the text alone


class RedisAwayError(RuntimeError):
    """Redis does not answer now; what was asked for may be tried again later."""


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """How patient a process is with Redis: it waits for one answer at most `timeout_s`."""

    timeout_s: float = 2.0  # for connecting and for each answer
    retry_every_s: float = 1.0  # while Redis is away, at most one attempt in this time

    def __post_init__(self) -> None:
        for name in ("timeout_s", "retry_every_s"):
            value = getattr(self, name)
            if not value > 0.0:
                raise ValueError(f"LinkConfig.{name} must be positive, got {value}")


def connect(url: str, config: LinkConfig) -> redis.Redis:
    """A client of the server at the URL, after it has answered once.

    Its answers are text. A broken connection is replaced once per command and then reported: the
    library's own default would hold the caller for seconds.

    Raises:
        RedisServerError: nothing answers there, the password is wrong, or, over TLS, the server is
            not the one that it should be.
    """
    client = redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=config.timeout_s,
        socket_connect_timeout=config.timeout_s,
        retry=Retry(NoBackoff(), 1),
    )
    try:
        client.ping()
    except redis.RedisError as error:
        client.close()
        raise RedisServerError(_explain(url, error)) from error
    return client


class RedisLink:
    """A client that says at once when Redis is away, and asks again only now and then.

    While Redis is away a command costs next to nothing: only one attempt in `retry_every_s` really
    goes out, every other one raises `RedisAwayError` immediately. Attempts that take long, as
    against a host that has vanished, become rarer, so that they stay a tenth of the caller's time.
    """

    def __init__(self, client: redis.Redis, config: LinkConfig) -> None:
        self._client = client
        self._config = config
        self._away_since: float | None = None
        self._next_attempt = 0.0
        self._reason = ""
        self.outages = 0

    @property
    def away_s(self) -> float:
        """For how long Redis has been away, seconds; 0 while it is there."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def call(self, command: Callable[[redis.Redis], Answer]) -> Answer:
        """The command's answer.

        Raises:
            RedisAwayError: Redis did not answer; whether the command took effect is unknown.
        """
        started = time.monotonic()
        if self._away_since is not None and started < self._next_attempt:
            raise RedisAwayError(f"Redis has been away for {self.away_s:.1f} s: {self._reason}")
        try:
            answer = command(self._client)
        except ABSENCES as error:
            raise self._mark_away(error, started) from error
        except ResponseError as error:
            if not str(error).startswith(DISK_FULL):
                raise
            raise self._mark_away(error, started) from error
        self._away_since = None
        return answer

    def _mark_away(self, error: Exception, started: float) -> RedisAwayError:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = started
            self.outages += 1
        self._next_attempt = now + max(self._config.retry_every_s, 9.0 * (now - started))
        self._reason = f"{type(error).__name__}: {error}"
        return RedisAwayError(f"Redis does not answer ({self._reason})")


def _explain(url: str, error: Exception) -> str:
    """Why there is no connection, and what to do."""
    place = _without_password(url)
    if NOT_TRUSTED in str(error):
        return (
            f"the Redis at {place} is not trusted ({error}): its certificate must name the host in "
            "the URL and be signed by an authority of the file that the URL gives as "
            "?ssl_ca_certs=/path/ca.crt, or without one by an authority that this system trusts"
        )
    return (
        f"no Redis answers at {place} ({error}): check that the server runs, that this machine "
        "reaches it, that files named in the URL are there, that it carries the password if there "
        "is one, and that it begins with rediss:// where the server speaks TLS"
    )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
