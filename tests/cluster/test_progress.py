"""The view of a run, on a terminal and elsewhere, by a clock that the test turns."""

import io

import pytest
from rich.console import Console

from causeway.cluster.progress import ProgressView, duration


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


def plain(clock, **options):
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    return ProgressView("SMAC on point-robot", console=console, clock=clock, **options), out


def terminal(clock):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    return ProgressView("SMAC on point-robot", console=console, clock=clock), out


def seen(view):
    """What the live view draws now."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(view._render())
    return console.file.getvalue()


def test_without_a_terminal_lines_come_at_a_phase_and_then_every_few_seconds(clock):
    view, out = plain(clock, plain_interval_s=5.0)
    with view:
        view.update(phase="offline", total=1000, completed=0, unit="updates")
        for completed in range(100, 1001, 100):
            clock.wait(1.0)
            view.update(completed=completed, updates=completed)
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "offline 0%, 0 of 1,000 updates, 0 s so far",
        "offline 50%, 500 of 1,000 updates, 100.0/s, 5 s left",
        "offline 100%, 1,000 of 1,000 updates, 100.0/s, 0 s left",
        "offline 100%, done in 10 s",
    ]
    assert lines[1].endswith(" | updates 500")


def test_no_escape_codes_go_to_a_file(clock):
    view, out = plain(clock)
    with view:
        view.update(phase="offline", total=3, completed=1)
    assert "\x1b" not in out.getvalue()


def test_a_phase_without_a_total_says_how_long_it_has_taken(clock):
    view, out = plain(clock, plain_interval_s=0.0)
    with view:
        view.update(phase="evaluate")
        clock.wait(65.0)
        view.update(note="still here")
    assert "evaluate, 1 min 05 s so far" in out.getvalue()


def test_a_resumed_phase_takes_no_credit_for_earlier_work_by_any_clock(clock):
    """Not even by one that goes on between two looks at it, as real ones do."""

    def ticking():
        clock.wait(1e-6)
        return clock()

    view, _ = plain(ticking)
    with view:
        view.update(phase="online training", completed=900, total=1_000, unit="updates")
        assert "/s" not in seen(view)
        clock.wait(1.0)
        view.update(completed=910)
        assert "10.0/s, 9 s left" in seen(view)


def test_the_time_left_follows_the_recent_rate_and_not_the_whole_past(clock):
    view, _ = terminal(clock)
    view.update(phase="offline", total=10_000, completed=0)
    for second in range(100):  # slow: 1 a second
        clock.wait(1.0)
        view.update(completed=second + 1)
    for second in range(40):  # fast: 100 a second
        clock.wait(1.0)
        view.update(completed=100 + 100 * (second + 1))
    assert "100.0/s, 59 s left" in seen(view)


def test_work_done_before_a_resumption_does_not_count_as_speed(clock):
    view, _ = terminal(clock)
    view.update(phase="offline", total=1000, completed=900)
    clock.wait(10.0)
    view.update(completed=910)
    assert "1.0/s, 1 min 30 s left" in seen(view)


def test_phases_stay_in_view_with_what_they_took(clock):
    view, _ = terminal(clock)
    view.update(phase="collect data", total=4, completed=4)
    clock.wait(3.0)
    view.update(phase="offline", total=100, completed=0)
    lines = seen(view).splitlines()
    assert "✓ collect data" in lines[1]
    assert "done in 3 s" in lines[1]
    assert "offline" in lines[2]


def test_a_phase_ended_by_an_error_is_not_called_done(clock):
    view, out = plain(clock)

    def work():
        with view:
            view.update(phase="offline", total=10, completed=3)
            clock.wait(2.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert "offline 30%, stopped after 2 s" in out.getvalue()


def test_every_number_that_is_told_is_shown(clock):
    view, _ = terminal(clock)
    view.update(
        phase="online", updates=12_000, updates_per_s=41.25, env_steps=300_000,
        env_steps_per_s=2_500.4, collectors=3, collectors_desired=4, staleness=17.0,
        online_share=0.683, shards_committed=57, deaths=1, prior_return=-14.2,
        online_context_return=-8.75, offline_context_return=-5.5, note="runs/a",
    )  # fmt: skip
    text = seen(view)
    for part in (
        "SMAC on point-robot", "12,000", "41.2", "300,000", "2,500", "3 of 4", "17.0 updates",
        "68%", "57", "prior -14.20, online context -8.75, offline context -5.50", "runs/a",
    ):  # fmt: skip
        assert part in text


def test_what_is_not_told_stays_and_what_was_never_told_is_not_shown(clock):
    view, _ = terminal(clock)
    view.update(phase="offline", updates=5)
    view.update(deaths=0)
    text = seen(view)
    assert "updates" in text
    assert "staleness" not in text
    assert "returns" not in text


def test_a_field_that_there_is_not_is_refused(clock):
    view, _ = plain(clock)
    with pytest.raises(TypeError, match=r"takes phase, .*got steps"):
        view.update(steps=3)


def test_on_a_terminal_the_view_is_drawn_and_lines_stay_above_it(clock):
    view, out = terminal(clock)
    with view:
        view.update(phase="offline", total=10, completed=5, unit="updates")
        view.print("[bold]checkpoint[/bold] written")
    text = out.getvalue()
    assert "[bold]checkpoint[/bold] written" in text  # as it is: nothing in it is markup
    assert text.index("checkpoint") < text.rindex("✓ offline")


def test_a_view_that_is_told_nothing_shows_its_title_and_ends(clock):
    view, out = terminal(clock)
    with view:
        pass
    assert "SMAC on point-robot" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text
