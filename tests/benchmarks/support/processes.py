"""What processes cost: time of the processor over a whole tree of them, and memory."""

import os
from collections import defaultdict
from pathlib import Path


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it, ended ones included, as far as waited for."""
    children, ticks = defaultdict(list), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children[int(fields[1])].append(int(entry.name))
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    total, stack = 0, [os.getpid()]
    while stack:
        process = stack.pop()
        total += ticks.get(process, 0)
        stack += children[process]
    return total / os.sysconf("SC_CLK_TCK")


def anonymous_bytes() -> int:
    """Memory of this process that no file backs, so that no other process can share it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status must tell RssAnon")
