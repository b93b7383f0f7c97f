"""Where data lie: a local folder, or any file system that Arrow reaches (s3://, gs://, hdfs://)."""

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa
from pyarrow import fs


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder on some file system. Files appear in it whole or not at all."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def parse(cls, place: "str | Path | Location") -> "Location":
        """The location that a local path or a URI such as s3://bucket/key names.

        Raises:
            ValueError: for a URI that names no place on a file system that Arrow knows.
        """
        if isinstance(place, Location):
            return place
        if not isinstance(place, str) or "://" not in place:
            return cls(fs.LocalFileSystem(), str(Path(place).expanduser().absolute()))
        try:
            filesystem, path = fs.FileSystem.from_uri(place)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(
                f"a location must be a path, or a URI such as s3://bucket/folder, got "
                f"{_without_secret(place)!r}: {_without_secret(str(error))}"
            ) from error
        if not path.strip("/"):
            raise ValueError(
                f"a location must name a folder, as s3://bucket/folder does, got "
                f"{_without_secret(place)!r}"
            )
        return cls(filesystem, path)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Self:
        """The folder it is in."""
        return type(self)(self.filesystem, str(PurePosixPath(self.path).parent))

    def child(self, relative: str) -> Self:
        """A location below this one."""
        return type(self)(self.filesystem, str(PurePosixPath(self.path) / relative))

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        info = self.filesystem.get_file_info(self.path)
        return bool(info.type != fs.FileType.NotFound)

    def file_sizes(self, relative: Sequence[str]) -> list[int | None]:
        """The sizes in bytes of files below this one; None for what is no file."""
        infos = self.filesystem.get_file_info([self.child(path).path for path in relative])
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def read(self) -> pa.Buffer:
        """The file's contents."""
        with self.filesystem.open_input_file(self.path) as stream:
            return stream.read_buffer()

    def write(self, contents: bytes | pa.Buffer) -> None:
        """Writes the file so that it is there with all its contents, on the disk, or not at all."""
        if not self.is_local:
            self._upload(contents)
            return
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(target.parent)

    def _upload(self, contents: bytes | pa.Buffer) -> None:
        """Writes an object, which appears once its upload is complete; nothing need be renamed."""
        try:
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(contents)
        except BaseException:
            # Closing the stream completes the upload, also of what an interrupted write has left.
            with suppress(OSError):
                self.delete()
            raise

    def delete(self) -> None:
        """Deletes the file if it is there."""
        if self.exists():
            self.filesystem.delete_file(self.path)


def _without_secret(text: str) -> str:
    """The text without what stands before the host of a URI: a key and its secret."""
    return re.sub(r"(?<=://)[^/@]*@", "", text)


def _fsync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
