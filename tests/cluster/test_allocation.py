import ctypes
import subprocess
import sys

import pytest

# Page faults of allocations as an update's, behind a first round that fills the heap. What glibc
# does by itself depends on what else is there, so the process begins by giving back all it can.
FAULTS = """
import ctypes, resource, sys, torch
from causeway.cluster.allocation import MMAP_THRESHOLD, keep_freed_memory
ctypes.CDLL(None).mallopt(MMAP_THRESHOLD[0], 1 << 17)
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.ones(1 << 18) for _ in range(20)]  # 1 MB each
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc alone")
def test_what_is_freed_is_kept_for_the_next_update():
    def faults(how):
        words = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    pages = 10 * 20 * (1 << 20) // 4096
    assert faults("given-back") > 0.2 * pages
    assert faults("kept") < 0.01 * pages
