"""A disk without room: it passes once somebody makes room, so nobody is to die of it."""

import errno

ERRORS = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether the error says that a disk, or a quota on it, is full."""
    return isinstance(error, OSError) and error.errno in ERRORS
