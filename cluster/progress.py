"""What a run shows while it works: a live view on a terminal, plain lines anywhere else.

The view is told what is so (`update`) and works out rates and times left itself. It knows nothing
of who tells it: a loop in one process or a driver of many.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_RATE_WINDOW_S = 20.0  # a rate is over at most this much of the past
_REFRESHES_PER_S = 4.0
_LABEL_COLUMNS = 27
_BAR_COLUMNS = 30


class ProgressFields(TypedDict, total=False):
    """What may be told; what is not told stays as it was."""

    phase: str  # a new name ends the phase before it
    completed: int  # of `total`, in this phase
    total: int
    unit: str  # what `completed` counts, such as updates
    updates: int
    updates_per_s: float
    env_steps: int
    env_steps_per_s: float
    collectors: int
    collectors_desired: int
    staleness: float  # updates between the weights acted with and the newest
    online_share: float  # of the transitions, in [0, 1]
    shards_committed: int
    deaths: int
    behaviour_return: float  # of an agent's own noisy episodes, while data are made by it
    deterministic_return: float
    prior_return: float
    online_context_return: float
    offline_context_return: float
    note: str  # a line of words, such as where the run's folder is


class ProgressView:
    """The view of one run, from `with` to its end."""

    def __init__(
        self,
        title: str,
        *,
        console: Console | None = None,
        plain_interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a view; nothing is shown before `with`.

        Args:
            title: what runs, in a few words.
            console: where to; standard error without one, so that results keep their own stream.
            plain_interval_s: seconds between lines where there is no terminal.
            clock: seconds that only grow.
        """
        self._title = title
        self._console = console or Console(stderr=True, highlight=False)
        self._plain_interval_s = plain_interval_s
        self._clock = clock
        self._fields: dict[str, Any] = {}
        self._phase: _Phase | None = None
        self._ended: list[_Phase] = []
        self._last_line_s = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=_REFRESHES_PER_S,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._phase is not None:
            self._end_phase(finished=error is None)
        if self._live is not None:
            self._live.stop()  # draws once more
            self._live = None

    def update(self, **fields: Unpack[ProgressFields]) -> None:
        """Takes what is so now.

        Raises:
            TypeError: a field that there is not.
        """
        unknown = set(fields) - set(ProgressFields.__annotations__)
        if unknown:
            raise TypeError(
                f"ProgressView.update takes {', '.join(ProgressFields.__annotations__)}, "
                f"got {', '.join(sorted(unknown))}"
            )
        name, now_s = fields.get("phase"), self._clock()
        begins = name is not None and (self._phase is None or self._phase.name != name)
        if begins:
            if self._phase is not None:
                self._end_phase(finished=True)
            self._phase = _Phase(str(name), now_s)
        self._fields |= fields
        if self._phase is not None:
            self._phase.take(fields, now_s)
        if self._live is None and (begins or self._is_line_due()):
            self._print_line()

    def print(self, message: str) -> None:
        """A line that stays, above the live view."""
        self._console.print(Text(message), soft_wrap=True)

    def _is_line_due(self) -> bool:
        return self._clock() - self._last_line_s >= self._plain_interval_s

    def _print_line(self) -> None:
        self._last_line_s = self._clock()
        parts = [] if self._phase is None else [self._phase.line(self._clock())]
        parts += [f"{label} {value}" for label, value in self._numbers()]
        parts += [f"returns {self._returns()}"] if self._returns() else []
        self._console.print(Text(" | ".join(parts)), soft_wrap=True)

    def _end_phase(self, *, finished: bool) -> None:
        assert self._phase is not None
        self._phase.end(self._clock(), finished=finished)
        self._ended.append(self._phase)
        if self._live is None:
            self._print_line()
        self._phase = None

    def _render(self) -> RenderableType:
        """The whole view; called by the live view's own thread."""
        lines = Table.grid(padding=(0, 1))
        lines.add_column(width=_LABEL_COLUMNS, no_wrap=True)
        lines.add_column(width=_BAR_COLUMNS, no_wrap=True)
        lines.add_column()
        phase = self._phase
        for one in [*self._ended, *([phase] if phase is not None else [])]:
            lines.add_row(*one.cells(self._clock()))
        facts = Table.grid(padding=(0, 2))
        pairs = [
            (Text(label, style="dim"), Text(value, style="bold"))
            for label, value in self._numbers()
        ]
        for start in range(0, len(pairs), 3):
            facts.add_row(*(cell for pair in pairs[start : start + 3] for cell in pair))
        returns, note = self._returns(), self._fields.get("note")
        parts: list[RenderableType] = [Text(self._title, style="bold"), lines]
        parts += [facts] if pairs else []
        parts += [Text.assemble(("returns      ", "dim"), (returns, "bold"))] if returns else []
        parts += [Text(str(note), style="dim")] if note else []
        return Group(*parts)

    def _numbers(self) -> list[tuple[str, str]]:
        """The numbers that have been told, in the words of the view."""
        told = self._fields
        facts = []
        for label, key, form in _FACTS:
            if key in told:
                facts.append((label, form.format(told[key])))
        if "collectors" in told:
            wanted = told.get("collectors_desired", told["collectors"])
            facts.append(("collectors", f"{told['collectors']} of {wanted}"))
        return facts

    def _returns(self) -> str:
        """The returns that have been told, by what the policy adapts on."""
        told = self._fields
        known = [(name, told[key]) for name, key in _RETURNS if told.get(key) is not None]
        return ", ".join(f"{name} {value:.2f}" for name, value in known)


_FACTS = (
    ("updates", "updates", "{:,}"),
    ("updates/s", "updates_per_s", "{:,.1f}"),
    ("env steps", "env_steps", "{:,}"),
    ("env steps/s", "env_steps_per_s", "{:,.0f}"),
    ("staleness", "staleness", "{:,.1f} updates"),
    ("online share", "online_share", "{:.0%}"),
    ("shards", "shards_committed", "{:,}"),
    ("deaths", "deaths", "{:,}"),
)
_RETURNS = (
    ("as it learns", "behaviour_return"),
    ("without noise", "deterministic_return"),
    ("prior", "prior_return"),
    ("online context", "online_context_return"),
    ("offline context", "offline_context_return"),
)


class _Phase:
    """A named part of the run: how far it is, how fast, and how long it will take."""

    def __init__(self, name: str, now_s: float) -> None:
        self.name = name
        self._began_s = now_s
        self._ended_s: float | None = None
        self._finished = False
        self._completed = 0
        self._total: int | None = None
        self._unit = ""
        self._past: deque[tuple[float, int]] = deque([(now_s, 0)])

    def take(self, fields: ProgressFields, now_s: float) -> None:
        """Takes the fields that concern a phase."""
        self._total = fields.get("total", self._total)
        self._unit = fields.get("unit", self._unit)
        if "completed" not in fields:
            return
        if len(self._past) == 1 and fields["completed"] > 0 and self._past[0][0] == now_s:
            self._past[0] = (now_s, fields["completed"])  # resumed: earlier work took no time here
        self._completed = fields["completed"]
        self._past.append((now_s, self._completed))
        while len(self._past) > 2 and now_s - self._past[1][0] > _RATE_WINDOW_S:
            self._past.popleft()

    def end(self, now_s: float, *, finished: bool) -> None:
        """Stops the clock; a phase that did not finish keeps the bar that it had."""
        self._ended_s, self._finished = now_s, finished

    def rate_per_s(self) -> float | None:
        """Of the recent past; None before there is one."""
        (then_s, before), (now_s, now) = self._past[0], self._past[-1]
        return (now - before) / (now_s - then_s) if now_s > then_s and now > before else None

    def left_s(self) -> float | None:
        """Seconds to the total at the recent rate, where both are known."""
        rate = self.rate_per_s()
        if rate is None or self._total is None or self._ended_s is not None:
            return None
        return max(0.0, (self._total - self._completed) / rate)

    def line(self, now_s: float) -> str:
        """The phase in one line of text."""
        share = f" {min(1.0, self._completed / self._total):.0%}" if self._total else ""
        return f"{self.name}{share}, {self._times(now_s)}"

    def cells(self, now_s: float) -> tuple[RenderableType, RenderableType, RenderableType]:
        """Name, bar, and what there is to say about times."""
        mark, style = ("  ", "bold") if self._ended_s is None else ("✓ ", "green")
        if self._ended_s is not None and not self._finished:
            mark, style = "✗ ", "red"
        bar: RenderableType = Text("")
        if self._total:
            bar = ProgressBar(
                total=float(self._total), completed=min(self._completed, self._total),
                width=_BAR_COLUMNS, finished_style="green",
            )  # fmt: skip
        return Text(mark + self.name, style=style), bar, Text(self._times(now_s))

    def _times(self, now_s: float) -> str:
        spent = duration((self._ended_s if self._ended_s is not None else now_s) - self._began_s)
        if self._ended_s is not None:
            return f"{'done in' if self._finished else 'stopped after'} {spent}"
        parts = []
        rate, left = self.rate_per_s(), self.left_s()
        if self._total:
            parts.append(f"{self._completed:,} of {self._total:,} {self._unit}".rstrip())
        if rate is not None:
            parts.append(f"{rate:,.1f}/s")
        parts.append(f"{spent} so far" if left is None else f"{duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
