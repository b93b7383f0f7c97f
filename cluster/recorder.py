"""What a run writes and shows: metrics, evaluations, results, the report and the live view."""

import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from causeway.actors.summary import Summary, summarise
from causeway.cluster.config import RunConfig
from causeway.cluster.evaluation import EvaluationReport
from causeway.cluster.full_disk import is_full_disk
from causeway.cluster.learner import BlockReport
from causeway.cluster.metrics import MetricsWriter
from causeway.cluster.progress import ProgressView
from causeway.cluster.schedule import Position, Schedule

METRICS_NAME, EVALUATIONS_NAME, RESULTS_NAME = "metrics.jsonl", "evaluations.json", "results.json"
RETURNS = ("prior_return", "online_context_return", "offline_context_return")
RATE_WINDOW_S = 2.0  # rates are over at least this much of the past, where there is as much


class Recorder:
    """Keeps what a run finds out, in its folder and on the screen.

    Args:
        config: of the run.
        folder: the run's own.
        view: where to show it; None shows nothing.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        view: ProgressView | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._folder, self._view = config, folder, view
        self._writer = MetricsWriter(folder / METRICS_NAME, clock)
        self._evaluations = _read(folder / EVALUATIONS_NAME) or {"stages": {}, "curve": []}
        # Time, updates and environment steps of the last rows. Blocks may be noted two at a time,
        # so the distance between two rows tells no rate.
        self._past: deque[tuple[float, int, int]] = deque([(self._writer.time_s, 0, 0)])
        self.listeners: list[Any] = []  # called with each row
        self.row: dict[str, Any] = {}  # the last one
        self.judged: dict[str, Any] = {}  # what the last evaluation adds to each row

    @property
    def time_s(self) -> float:
        """For how long the run has been at work."""
        return self._writer.time_s

    def rewind(self, position: Position) -> None:
        """Goes on from there: forgets evaluations that a return to a checkpoint has undone."""
        curve = self._evaluations["curve"]
        self._evaluations["curve"] = [p for p in curve if p["updates"] <= position.updates]
        self._past = deque([(self._writer.time_s, position.updates, position.env_steps)])
        for point in self._evaluations["curve"][-1:]:
            self.judged = {"returns": {name: point[name]["mean"] for name in RETURNS}}

    def has_evaluation(self, updates: int) -> bool:
        """Whether the policy after so many updates has been evaluated."""
        return any(point["updates"] == updates for point in self._evaluations["curve"])

    def lacks_start(self, position: Position) -> bool:
        """Whether this run goes on from another's weights, which have not been evaluated yet."""
        is_start = self._config.run.start_from is not None and position.updates == 0
        return is_start and not self.has_evaluation(0)

    def note(self, text: str) -> None:
        """A line of words for whoever watches."""
        if self._view is not None:
            self._view.print(text)

    def stage_begun(self, schedule: Schedule) -> None:
        """Shows the schedule's stage, before its first block: rates count from here."""
        self.show(
            phase=_phase(schedule.stage.name),
            completed=schedule.position.stage_updates,
            total=schedule.stage_total,
            unit="updates",
        )

    def block(self, report: BlockReport, schedule: Schedule, more: Mapping[str, Any]) -> None:
        """Keeps and shows what a block of updates did; `more` are further fields of the row."""
        position, now = schedule.position, self._writer.time_s
        self._past.append((now, position.updates, position.env_steps))
        while len(self._past) > 2 and now - self._past[1][0] > RATE_WINDOW_S:
            self._past.popleft()
        then, updates, env_steps = self._past[0]
        seconds = max(now - then, 1e-6)
        row = {
            "stage": report.stage,
            "updates": position.updates,
            "env_steps": position.env_steps,
            "updates_per_s": (position.updates - updates) / seconds,
            "env_steps_per_s": (position.env_steps - env_steps) / seconds,
            "losses": report.means.losses,
            "watched": report.means.watched,
            **self.judged,
            **more,
        }
        self.row = row
        self._writer.write(row)
        for listener in self.listeners:
            listener(row)
        if self._view is not None:
            self._view.update(
                phase=_phase(report.stage),
                completed=position.stage_updates,
                updates=position.updates,
                updates_per_s=row["updates_per_s"],
                env_steps=position.env_steps,
            )

    def show(self, **fields: Any) -> None:
        """Shows fields of the live view."""
        if self._view is not None:
            self._view.update(**fields)

    def evaluated(self, report: EvaluationReport, stage: str, *, is_last: bool) -> None:
        """Keeps an evaluation; the last one of a stage in full."""
        returns = report.returns()
        point = {name: summary.to_json() for name, summary in returns.items()}
        curve = [p for p in self._evaluations["curve"] if p["updates"] != report.updates]
        curve.append({"updates": report.updates, "stage": stage, **point})
        self._evaluations["curve"] = sorted(curve, key=lambda p: int(p["updates"]))
        if is_last:
            self._evaluations["stages"][stage] = report.to_json()
        try:
            write_json(self._folder / EVALUATIONS_NAME, self._evaluations)
        except OSError as error:
            if not is_full_disk(error):
                raise
            self.note(f"{error}: the evaluation will be written with the next one")
        means = {name: summary.mean for name, summary in returns.items()}
        self.judged = {"returns": means}
        if report.label_error is not None:
            self.judged["label_error"] = report.label_error
        self.show(**means)

    def finish(
        self, schedule: Schedule, references: Mapping[str, Summary | None], transitions: int
    ) -> dict[str, Any]:
        """Writes `results.json`; gives its contents."""
        config = self._config
        by_stage = {p["stage"]: p for p in self._evaluations["curve"]}  # the last of each stage
        results = {
            "algorithm": config.run.algorithm,
            "family": config.data.family,
            "split": config.data.split,
            "seed": config.run.seed,
            "true_rewards": config.collection.true_rewards,
            "protocols": {
                "online": config.evaluation.online_protocol,
                "offline": config.evaluation.offline_protocol,
                "belief_per": config.evaluation.belief_per,
            },
            "git_commit": git_commit(),
            **{stage: {n: point[n] for n in RETURNS} for stage, point in by_stage.items()},
            **self._of_old_tasks(),
            **{n: s.to_json() if s is not None else None for n, s in references.items()},
            "updates": schedule.position.updates,
            "env_steps": schedule.position.env_steps,
            "self_supervised_transitions": transitions,
            "wall_seconds": round(self.time_s, 1),
        }
        write_json(self._folder / RESULTS_NAME, results)
        return results

    def _of_old_tasks(self) -> dict[str, Any]:
        """Where the run goes on from another: what its tasks earned at the start and earn now."""
        curve = self._evaluations["curve"]
        if self._config.run.start_from is None or not self.has_evaluation(0):
            return {}
        before, after = ({n: point[n] for n in RETURNS} for point in (curve[0], curve[-1]))
        change = {
            n: summarise(np.subtract(after[n]["per_task"], before[n]["per_task"])).to_json()
            for n in RETURNS
        }
        return {"old": {"before": before, "after": after, "change": change}}

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def _phase(stage: str) -> str:
    return f"{stage} training"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name and renames it."""
    temporary = path.with_suffix(f".partial-{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return None
    return answer.stdout.strip() or None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
