"""What the C library does with memory that a process has freed."""

import ctypes

# Of glibc's <malloc.h>: the parameter and its value.
TRIM_THRESHOLD = (-1, 1 << 30)  # bytes free at the heap's end before they go back
TOP_PAD = (-2, 64 << 20)  # bytes that the heap grows by
MMAP_THRESHOLD = (-3, 32 << 20)  # bytes of an allocation that is mapped apart; the most there is


def keep_freed_memory() -> None:
    """Keeps what is freed for what is allocated next, up to a gigabyte.

    An update frees its tensors and the next one allocates as many. Given back in between, each of
    their pages costs a fault: with glibc's defaults some thousand for an update, a tenth of its
    time. Where the C library is another one, nothing changes.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is not None:
        for parameter, value in (TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD):
            set_parameter(parameter, value)
