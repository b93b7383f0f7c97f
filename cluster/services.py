"""What a distributed run leans on outside Ray: its Redis, the control plane and the ledger."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from causeway.cluster.config import RunConfig
from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.ledger import Ledger, LedgerConfig
from causeway.cluster.naming import SPOOL_NAME
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, connect
from causeway.cluster.redis_server import RedisServerError, RunRedis, redis_for_run


@dataclass(kw_only=True)
class RunServices:
    """A run's control plane and ledger, and the server below them if it is the run's own."""

    redis: RunRedis
    control: Control
    ledger: Ledger
    next_start: float = 0.0  # on the monotonic clock: not before it is a start tried again

    def keep_up(self) -> bool:
        """Starts the run's own server again if it has died, and commits what waited for it.

        Called now and then, from the main thread. It never fails for Redis: the run goes on
        without one, and a start that took long is not tried again soon.

        Returns:
            Whether the server had died and is there again.
        """
        started, begun = False, time.monotonic()
        if begun >= self.next_start:
            with contextlib.suppress(RedisServerError):
                started = self.redis.ensure_running()
            self.next_start = time.monotonic() + 9.0 * (time.monotonic() - begun)
        with contextlib.suppress(RedisAwayError):
            self.ledger.reconcile()
        return started


@contextlib.contextmanager
def run_services(config: RunConfig, folder: Path) -> Iterator[RunServices]:
    """The run's services, on the configured Redis or on one of its own.

    Raises:
        RedisServerError: there is none and none could be started.
    """
    with (
        redis_for_run(config.redis, folder, single_host=config.ray.is_local) as redis,
        contextlib.closing(connect(redis.url, LinkConfig())) as client,
    ):
        yield RunServices(
            redis=redis,
            control=Control(client, config.name, ControlConfig()),
            ledger=Ledger(client, config.name, folder / SPOOL_NAME, LedgerConfig()),
        )
