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

    fault: Fault | None = None  # where it is known; survives pickling

    @classmethod
    def of(cls, fault: Fault) -> Self:
        """The error that a fault amounts to."""
        error = cls(str(fault))
        error.fault = fault
        return error
