"""The names that a run's parts have on a shared Ray or Redis, and in its folder."""

NAMESPACE = "causeway"  # of every named actor
SHARDS_NAME = "shards"  # unlabelled rollouts, as collectors write them
ONLINE_NAME = "online"  # the same, labelled by the learner and kept by the task stream
SPOOL_NAME = "spool.jsonl"  # commits that wait for Redis


def check_run_name(run: str) -> str:
    """The run's name, once it is known to give unambiguous keys and actor names.

    Raises:
        ValueError: it would not.
    """
    if not run or not all(c.isalnum() or c in "-_." for c in run):
        raise ValueError(
            "a run's name must consist of letters, digits, '-', '_' and '.' only, got "
            f"{run!r}: it becomes part of keys and actor names"
        )
    return run


def redis_key(run: str, name: str) -> str:
    """The run's key of that name. Braces keep all keys of a run on one node of a Redis cluster."""
    return f"causeway:{{{check_run_name(run)}}}:{name}"


def actor_name(run: str, role: str, index: int | None = None) -> str:
    """The name of the run's actor in that role, such as `causeway:my-run:collector-3`."""
    suffix = "" if index is None else f"-{index}"
    return f"causeway:{check_run_name(run)}:{role}{suffix}"
