"""A bounded queue of text lines on this machine's disk that survives a crash."""

import os
from pathlib import Path


class Spool:
    """Lines in the order in which they came, in a file that one process writes.

    A line that a crash cut short is not taken for a line. Dropping rewrites the file under another
    name and renames it, so a crash leaves either the old lines or the new ones.
    """

    def __init__(self, path: Path, max_lines: int) -> None:
        self._path = path
        self._max_lines = max_lines
        self._lines = self._read()

    def __len__(self) -> int:
        return len(self._lines)

    def lines(self) -> list[str]:
        """The lines that wait, oldest first."""
        return list(self._lines)

    def append(self, line: str) -> bool:
        """Adds a line and gives True once it is on the disk; False if the spool is full."""
        if "\n" in line:
            raise ValueError(f"a spooled line must not contain a line break, got {line!r}")
        if len(self._lines) >= self._max_lines:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(line)
        return True

    def drop_first(self, count: int) -> None:
        """Forgets the oldest `count` lines."""
        if count == 0:
            return
        self._lines = self._lines[count:]
        self._rewrite()

    def _read(self) -> list[str]:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return []
        *complete, torn = text.split("\n")
        self._lines = complete
        if torn:
            self._rewrite()  # or the next line would be glued to the torn one
        return complete

    def _rewrite(self) -> None:
        temporary = self._path.with_name(self._path.name + ".partial")
        with temporary.open("w") as file:
            file.writelines(line + "\n" for line in self._lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
