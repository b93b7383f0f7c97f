"""Runs side by side: seeds of one method together, on one scale, under each context protocol.

A score is where a return lies between random actions (0) and the oracle (1), both of the run's own
held-out tasks; where no oracle is known, it is the return itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from causeway.actors.summary import Summary, summarise
from causeway.cluster.report.evaluated import read_evaluated
from causeway.cluster.report.findings import (
    CONDITIONS,
    OFFLINE_CONTEXT,
    ONLINE_CONTEXT,
    STAGES,
    bounds,
)
from causeway.cluster.report.run_data import (
    CONFIG,
    RESULTS,
    ReportError,
    RunData,
    read_run,
    read_summary,
)

NO_CONTEXT = "no context"
PROTOCOL_KIND = {ONLINE_CONTEXT: "online", OFFLINE_CONTEXT: "offline"}

Label = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the runs of a group reach under one protocol."""

    mean: float
    ci95: float | None  # half-width, over runs; of a single run over its tasks
    per_run: tuple[float, ...]

    def as_summary(self) -> Summary:
        """The same, for what writes summaries."""
        return Summary(mean=self.mean, ci95=self.ci95, per_task=())


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone, as far as is asked."""

    label: Label
    seeds: tuple[int, ...]
    scores: dict[str, Score]  # by protocol
    returns: dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it."""

    family: str
    split: str
    stages: tuple[str, ...]  # whose ends are compared
    by: str
    protocols: tuple[str, ...]  # that any run was evaluated under, in the order of the table
    normalised: bool  # else a score is a return
    groups: tuple[Group, ...]

    @property
    def numeric(self) -> bool:
        """Whether the groups are told apart by numbers, so that they lie on an axis."""
        labels = [group.label for group in self.groups]
        return len(labels) > 1 and all(type(label) in (int, float) for label in labels)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "family": self.family, "split": self.split, "stages": list(self.stages), "by": self.by,
            "normalised": self.normalised,
            "groups": [
                {
                    self.by: group.label,
                    "seeds": list(group.seeds),
                    **{
                        kind: {name: vars(one) for name, one in values.items()}
                        for kind, values in (("scores", group.scores), ("returns", group.returns))
                    },
                }
                for group in self.groups
            ],
        }  # fmt: skip


def compare(folders: Sequence[Path], *, by: str, stage: str | None) -> Comparison:
    """Puts finished runs of one family and split beside each other.

    Args:
        folders: the runs'.
        by: the setting that tells groups apart, as `run.algorithm` or `data.train_tasks`; runs of
            one group must have different seeds.
        stage: whose end is compared, `offline` or `online`; None: each run's last.

    Raises:
        ReportError: a run has no results yet or not of that stage, another family or split than
            the first, no such setting, or the seed of another run of its group.
    """
    if not folders:
        raise ReportError("compare needs the folders of runs, got none")
    runs = [read_run(folder) for folder in folders]
    ends = [_end_of(run, stage) for run in runs]
    for run in runs[1:]:
        for name in ("family", "split"):
            if run.results.get(name) != runs[0].results.get(name):
                raise ReportError(
                    f"runs that are compared must have one {name}, got "
                    f"{runs[0].results.get(name)!r} in {runs[0].folder} and "
                    f"{run.results.get(name)!r} in {run.folder}: their tasks differ"
                )
    labels = [_setting(run, by) for run in runs]
    numeric = all(type(label) in (int, float) for label in labels)
    distinct = sorted(set(labels)) if numeric else list(dict.fromkeys(labels))  # type: ignore[type-var]
    normalised = all(bounds(run) is not None for run in runs)
    groups = [
        _group(
            label,
            sorted(
                [(r, end) for r, end, own in zip(runs, ends, labels, strict=True) if own == label],
                key=lambda one: int(one[0].results.get("seed", 0)),
            ),
            normalised=normalised,
            by=by,
        )
        for label in distinct
    ]
    return Comparison(
        family=str(runs[0].results.get("family")),
        split=str(runs[0].results.get("split")),
        stages=tuple(dict.fromkeys(ends)),
        by=by,
        protocols=tuple(sorted({name for group in groups for name in group.scores}, key=_place)),
        normalised=normalised,
        groups=tuple(groups),
    )


def _end_of(run: RunData, stage: str | None) -> str:
    """The stage whose end counts."""
    had = [name for name in STAGES if run.results.get(name)]
    if not had:
        raise ReportError(
            f"{run.folder} must have results to be compared, it has none in {RESULTS}: "
            f"'causeway resume {run.folder}' goes on with it"
        )
    if stage is None:
        return had[-1]
    if stage not in had:
        raise ReportError(
            f"--stage must be one that {run.folder} has results of, got {stage!r}: "
            f"it has {', '.join(had)}"
        )
    return stage


def _place(protocol: str) -> tuple[int, str]:
    """Nothing first, then what logs give, then own experience."""
    kinds = (NO_CONTEXT, "offline", "online")
    return next((n for n, kind in enumerate(kinds) if protocol.startswith(kind)), 3), protocol


def _setting(run: RunData, by: str) -> Label:
    """A setting of the run's resolved configuration."""
    value: Any = yaml.safe_load(run.config_text) or {}
    for key in by.split("."):
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(sorted(value)) if isinstance(value, dict) else "nothing below it"
            raise ReportError(
                f"--by must name a setting of {run.folder / CONFIG}, got {by!r}: "
                f"there is no {key!r}, there is {known}"
            )
        value = value[key]
    if isinstance(value, (dict, list)):
        raise ReportError(f"--by must name a single value of {CONFIG}, got {by!r}: {value}")
    label: Label = value
    return label


def _group(label: Label, members: list[tuple[RunData, str]], *, normalised: bool, by: str) -> Group:
    seeds = [int(run.results.get("seed", 0)) for run, _ in members]
    for index, seed in enumerate(seeds):
        if seed in seeds[:index]:
            twin = members[seeds.index(seed)][0]
            raise ReportError(
                f"runs with one {by} must have different seeds, got seed {seed} in {twin.folder} "
                f"and in {members[index][0].folder}: --by another setting tells them apart"
            )
    found = [_returns(run, stage) for run, stage in members]
    names = list(dict.fromkeys(name for one in found for name in one))
    returns, scores = {}, {}
    for name in names:
        values = [
            (run, one[name]) for (run, _), one in zip(members, found, strict=True) if name in one
        ]
        returns[name] = _score(value for _, value in values)
        scores[name] = (
            _score(_normalised(run, value) for run, value in values)
            if normalised
            else returns[name]
        )
    return Group(label=label, seeds=tuple(seeds), scores=scores, returns=returns)


def _returns(run: RunData, stage: str) -> dict[str, Summary]:
    """The returns of a stage's end by protocol, those of later evaluations among them."""
    told = run.results.get("protocols") or {}
    given = [(told, run.results[stage])]
    if stage == [name for name in STAGES if run.results.get(name)][-1]:
        updates = run.results.get("updates")
        later = [one for one in read_evaluated(run.folder) if one.get("updates") == updates]
        given += [(one.get("protocols") or {}, one) for one in later]
    found: dict[str, Summary] = {}
    for protocols, values in given:
        for name in CONDITIONS:
            kind = PROTOCOL_KIND.get(name)
            protocol = NO_CONTEXT if kind is None else str(protocols.get(kind, kind))
            if (value := read_summary(values.get(name))) is not None:
                found.setdefault(protocol, value)
    return found


def _normalised(run: RunData, value: Summary) -> Summary:
    known = bounds(run)
    assert known is not None
    low, high = known
    width = high - low
    return Summary(
        mean=(value.mean - low) / width,
        ci95=None if value.ci95 is None else value.ci95 / width,
        per_task=tuple((one - low) / width for one in value.per_task),
    )


def _score(values: Iterable[Summary]) -> Score:
    """Over runs by Student's t; of a single run, over its tasks."""
    known = list(values)
    means = tuple(one.mean for one in known)
    half_width = known[0].ci95 if len(known) == 1 else summarise(means).ci95
    return Score(mean=sum(means) / len(means), ci95=half_width, per_run=means)
