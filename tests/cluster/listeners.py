"""Prints the addresses on which the processes below this one listen, after starting a local Ray."""

import os
import sys
from pathlib import Path


def descendants():
    """This process and everything that it started, also across sessions."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def sockets(pid):
    """The inodes of the process's sockets."""
    inodes = set()
    try:
        for link in (Path("/proc") / str(pid) / "fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        pass
    return inodes


def listening(inodes):
    """The local addresses, as the kernel writes them, of the listening sockets among these."""
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(fields[1].partition(":")[0])
    return addresses


if __name__ == "__main__":
    if sys.argv[1] == "ray-first":
        import ray
    from causeway.cluster.ray_local import RayConfig, ray_session

    with ray_session(RayConfig(num_cpus=1, object_store_bytes=100_000_000)):
        import ray

        ray.get(ray.remote(descendants).remote())  # so that there is a worker
        print(*listening(set().union(*map(sockets, descendants()))))
