"""How a distributed run ends where it cannot go on: with what was lost, and the way on."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from causeway.cluster.evaluating import EvaluationError
from causeway.learners.trainer import DivergedError


class RunError(RuntimeError):
    """A run that cannot go on; what it has done is in its last checkpoint."""


class LostError(RunError):
    """The learner or the task stream was lost: from the last checkpoint the run can go on."""

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(f"{cause}. {advice}")
        self.cause = cause


class PeerLostError(RuntimeError):
    """One of several learners does not answer the others."""


class HungError(RuntimeError):
    """An actor that neither answers nor dies."""


LOSSES = (RayActorError, ObjectLostError, GetTimeoutError, HungError, PeerLostError)


@contextlib.contextmanager
def explained(name: str, folder: Path) -> Iterator[None]:
    """Turns what ends a run into a `RunError` in words.

    Args:
        name: of the run.
        folder: its own.
    """
    advice = f"'causeway resume {folder}' goes on from the last checkpoint"
    try:
        yield
    except EvaluationError as error:
        raise RunError(f"{error}. {advice}") from error
    except RayTaskError as error:
        # An answer that was asked of an actor with what another one owed it.
        if isinstance(error.cause, LOSSES):
            raise LostError(_lost(name, error.cause), advice) from error
        if isinstance(error.cause, DivergedError):
            raise RunError(str(error.cause)) from error
        raise
    except LOSSES as error:
        raise LostError(_lost(name, error), advice) from error


def _lost(name: str, error: BaseException) -> str:
    cause = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()  # without the terminal's colours
    return f"the learner or the task stream of {name!r} was lost: {cause}"
