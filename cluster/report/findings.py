"""What a run's numbers say: changes, gaps and shares of what is possible, with their intervals.

Changes and gaps are differences per task: both sides meet the same tasks, so the tasks' own spread
cancels and the interval is that of the difference.
"""

from dataclasses import dataclass
from typing import Literal

from causeway.actors.summary import Summary, summarise
from causeway.cluster.report.run_data import RunData, read_summary

PRIOR, ONLINE_CONTEXT, OFFLINE_CONTEXT = (
    "prior_return",
    "online_context_return",
    "offline_context_return",
)
CONDITIONS = {
    PRIOR: "No context",
    ONLINE_CONTEXT: "Own experience",
    OFFLINE_CONTEXT: "Offline data",
}
STAGES = {"offline": "after offline training", "online": "after self-supervision"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of returns."""

    condition: str
    offline: Summary | None
    online: Summary | None
    change: Summary | None
    offline_share: float | None  # of the way from random to the oracle
    online_share: float | None


def rows(run: RunData) -> list[Row]:
    """The returns under each condition, before and after self-supervision."""
    table = []
    for name, label in CONDITIONS.items():
        offline, online = run.summary("offline", name), run.summary("online", name)
        if offline is not None or online is not None:
            table.append(
                Row(
                    condition=label,
                    offline=offline,
                    online=online,
                    change=difference(online, offline),
                    offline_share=share_of_possible(run, offline),
                    online_share=share_of_possible(run, online),
                )
            )
    return table


@dataclass(frozen=True, kw_only=True)
class OldRow:
    """What the tasks of the run that this one began with earn, under one condition."""

    condition: str
    before: Summary | None
    after: Summary | None
    change: Summary | None


def old_rows(run: RunData) -> list[OldRow]:
    """What was kept of the older run's tasks; none where the run began anew."""
    told = run.results.get("old") or {}
    rows = []
    for name, label in CONDITIONS.items():
        before, after, change = (
            read_summary((told.get(when) or {}).get(name)) for when in ("before", "after", "change")
        )
        if before is not None or after is not None:
            rows.append(OldRow(condition=label, before=before, after=after, change=change))
    return rows


def difference(left: Summary | None, right: Summary | None) -> Summary | None:
    """`left - right`, task by task; without an interval where the tasks are not told."""
    if left is None or right is None:
        return None
    if left.per_task and len(left.per_task) == len(right.per_task):
        pairs = zip(left.per_task, right.per_task, strict=True)
        return summarise(one - other for one, other in pairs)
    return Summary(mean=left.mean - right.mean, ci95=None, per_task=())


def gap(run: RunData, stage: str) -> Summary | None:
    """What adapting on its own experience earns less than adapting on offline data."""
    return difference(run.summary(stage, OFFLINE_CONTEXT), run.summary(stage, ONLINE_CONTEXT))


def bounds(run: RunData) -> tuple[float, float] | None:
    """The mean returns of random actions and of the oracle, where both are known and in order."""
    low, high = run.summary(None, "random_return"), run.summary(None, "oracle_return")
    if low is None or high is None or high.mean <= low.mean:
        return None
    return low.mean, high.mean


def share_of_possible(run: RunData, value: Summary | None) -> float | None:
    """Where a return lies between random actions (0) and the oracle (1)."""
    known = bounds(run)
    if value is None or known is None:
        return None
    low, high = known
    return (value.mean - low) / (high - low)


def direction(change: Summary) -> Literal["up", "down", "unclear"]:
    """Whether a change is distinguishable from none."""
    if change.ci95 is None or abs(change.mean) <= change.ci95:
        return "unclear"
    return "up" if change.mean > 0 else "down"


def headline(run: RunData) -> str:
    """The run's outcome in one or two sentences, no stronger than its intervals."""
    before = run.summary("offline", ONLINE_CONTEXT)
    after = run.summary("online", ONLINE_CONTEXT)
    if before is None and after is None:
        return "This run has no results yet: what follows is how far it has come."
    if after is None or before is None:
        only = after or before
        assert only is not None
        stage = STAGES["online" if before is None else "offline"]
        return f"On its own experience in held-out tasks the agent earns {number(only)} {stage}."
    change = difference(after, before)
    assert change is not None
    verbs = {
        "up": "raised the return of adapting on its own experience",
        "down": "lowered the return of adapting on its own experience",
        "unclear": "made no clear difference to the return of adapting on its own experience",
    }
    sentence = (
        f"Self-supervision {verbs[direction(change)]} in held-out tasks: "
        f"{number(before)} to {number(after)}, a change of {number(change, signed=True)}."
    )
    gaps = [gap(run, stage) for stage in STAGES]
    if gaps[0] is not None and gaps[1] is not None:
        sentence += (
            f" The gap to adapting on offline data went from {number(gaps[0])} "
            f"to {number(gaps[1])}."
        )
    return sentence


def number(value: Summary | float | None, *, signed: bool = False) -> str:
    """A number as the report writes it, with its interval where it has one."""
    if value is None:
        return "\N{EN DASH}"
    mean = value.mean if isinstance(value, Summary) else value
    half_width = value.ci95 if isinstance(value, Summary) else None
    digits = _digits(half_width if half_width else mean)
    text = f"{mean:+,.{digits}f}" if signed else f"{mean:,.{digits}f}"
    text = text.replace("-", "\N{MINUS SIGN}")
    if half_width is None:
        return text
    # No-break spaces: a number and its interval stay on one line.
    return f"{text} ± {half_width:,.{digits}f}".replace(" ", "\N{NO-BREAK SPACE}")


def _digits(scale: float) -> int:
    """Decimal places that show about three figures of a number of this size."""
    size = abs(scale)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
