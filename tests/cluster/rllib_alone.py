"""An algorithm that starts Ray itself: prints what it reached, and how many processes it took.

Run by test_rllib.py in a process of its own: `python -m tests.cluster.rllib_alone tiny.yaml`, with
a word of its choice in the environment, by which all processes that come from it are found.
"""

import json
import os
import sys
import time
from pathlib import Path

import ray

from causeway.cluster.rllib import CausewayConfig

MARK = "CAUSEWAY_TEST_MARK"
GONE_S = 20.0


def marked(word: str) -> list[str]:
    """The command lines of other processes that have the word in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"{MARK}={word}".encode() in environment and folder.name != str(os.getpid()):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended
            continue
    return found


def main() -> None:
    word = os.environ[MARK]
    algorithm = CausewayConfig().causeway(path=sys.argv[1]).build_algo()
    built = len(marked(word))
    result = algorithm.train()
    at_work = len(marked(word))
    algorithm.stop()
    deadline = time.monotonic() + GONE_S
    while (left := marked(word)) and time.monotonic() < deadline:
        time.sleep(0.1)
    answer = {
        "updates": result["updates"],
        "iteration": result["training_iteration"],
        "built": built,
        "at_work": at_work,
        "left": left,
        "ray": ray.is_initialized(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
