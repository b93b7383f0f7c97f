"""What can be wrong with a data set, and the one error that says so."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a file cannot be used, and where in it."""

    file: str
    what: str  # what must hold and what was found
    column: str | None = None
    row: int | None = None  # of the file, from 0

    def __str__(self) -> str:
        where = [self.file]
        if self.column is not None:
            where.append(f"column {self.column}")
        if self.row is not None:
            where.append(f"row {self.row}")
        return f"{', '.join(where)}: {self.what}"


class DatasetError(Exception):
    """A data set or a file of it cannot be used; the message says where, why and what to do."""

    faults: tuple[Fault, ...] = ()  # where they are known; survive pickling

    @property
    def fault(self) -> Fault | None:
        """The first of them, which is what the message says."""
        return self.faults[0] if self.faults else None

    @classmethod
    def of(cls, first: Fault, *others: Fault) -> Self:
        """The error that faults of one file amount to."""
        error = cls(str(first))
        error.faults = (first, *others)
        return error
