"""`causeway report` and `causeway evaluate`: what a run has found out."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.invocation import overrides_of
from causeway.cluster.cli.output import print_json, print_line, print_table
from causeway.cluster.config_yaml import ConfigError

if TYPE_CHECKING:
    from causeway.actors.summary import Summary
    from causeway.cluster.checkpoint import Checkpoint
    from causeway.cluster.config import RunConfig

RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def report(
    folder: RunFolder,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="A folder for the figures as PNG.")
    ] = None,
) -> None:
    """Write a run's report: one HTML page with its pictures inside."""
    from causeway.cluster.report.build import build_report

    print_line(str(build_report(folder, pictures=pictures)))


def evaluate(
    context: typer.Context,
    folder: RunFolder,
    explore: Annotated[
        str | None,
        typer.Option("--explore", help="Adapt to own episodes: 'noise' or 'training_tasks'."),
    ] = None,
    explore_episodes: Annotated[
        int | None, typer.Option("--explore-episodes", help="How many whole ones.")
    ] = None,
    keep_episodes: Annotated[
        int | None, typer.Option("--keep-episodes", help="Adapt to the best of them alone.")
    ] = None,
    fine_tune_episodes: Annotated[
        int, typer.Option("--fine-tune-episodes", help="Then go on learning from so many.")
    ] = 0,
    collectors: Annotated[
        int,
        typer.Option("--collectors", min=0, help="Ray actors that play the episodes; 0: none."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="A file for the result as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Evaluate a run's last checkpoint on the held-out tasks, under each context protocol.

    Overrides such as --evaluation.offline_protocol offline_shifted choose other protocols; what is
    found under them is kept in the run's folder, for 'causeway compare'.
    With --explore, the policy explores by what it learned from logs, adapts to its own whole
    episodes and acts. With --fine-tune-episodes, it goes on learning; without --explore, it starts
    from the task's logs. With --collectors, actors on the run's Ray play the episodes.
    """
    from causeway.cluster.launch import evaluated_otherwise, trained_run
    from causeway.cluster.report.evaluated import keep_evaluated

    config, checkpoint = trained_run(folder, to_be="evaluated")
    config = evaluated_otherwise(config, folder, overrides_of(context))
    given = {
        "exploration": explore,
        "exploration_episodes": explore_episodes,
        "kept_episodes": keep_episodes,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if explore is None and options:
        raise ConfigError(
            "--explore-episodes and --keep-episodes need --explore: say how episodes are gathered"
        )
    if not options and fine_tune_episodes == 0:
        if collectors:
            raise ConfigError(
                "--collectors needs --explore or --fine-tune-episodes: say what they are to play"
            )
        result, rows = _under_protocols(config, checkpoint)
        keep_evaluated(folder, result)
    else:
        options["fine_tune_episodes"] = fine_tune_episodes
        result, rows = _adapted(
            config, checkpoint, options, from_logs=explore is None, collectors=collectors
        )
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        print_table((f"after {result['updates']} updates", "mean", "± 95 %"), rows)


Table = list[tuple[str, str, str]]


def _under_protocols(config: "RunConfig", checkpoint: "Checkpoint") -> tuple[dict[str, Any], Table]:
    """The protocols that the run itself evaluates under."""
    from causeway.cluster.evaluation import EvaluationService
    from causeway.cluster.learner import checkpoint_weights
    from causeway.cluster.streams import open_data

    weights = checkpoint_weights(config, checkpoint, open_data(config).layout)
    found = EvaluationService(config).evaluate(*weights)
    returns = found.returns()
    result = {name: summary.to_json() for name, summary in returns.items()}
    protocols = {"online": found.online.protocol, "offline": found.offline.protocol}
    told = {"updates": found.updates, "protocols": protocols, **result}
    return told, [_row(*one) for one in returns.items()]


def _adapted(
    config: "RunConfig",
    checkpoint: "Checkpoint",
    given: dict[str, Any],
    *,
    from_logs: bool,
    collectors: int,
) -> tuple[dict[str, Any], Table]:
    """Adaptation to own episodes, or to logs, and what comes behind it."""
    from causeway.actors.online_adaptation import OnlineAdaptationConfig
    from causeway.cluster.adapting import adapt_run

    options = OnlineAdaptationConfig(**given)
    found = adapt_run(config, checkpoint, options, from_logs=from_logs, collectors=collectors)
    told = {
        "updates": checkpoint.state["trainer"]["updates"],
        "context": "logs" if from_logs else f"own episodes, explored by {options.exploration}",
        "options": dataclasses.asdict(options),
        **found.to_json(),
    }
    rows = [_row("unadapted_return", found.unadapted)]
    if found.explored is not None:
        rows.append(_row("exploration_return", found.explored))
    rows.append(_row("adapted_return", found.adapted))
    rows += [_row(f"fine-tuned_on_{count}_episodes", summary) for count, summary in found.tuned]
    return told, rows


def _row(name: str, summary: "Summary") -> tuple[str, str, str]:
    return name.replace("_", " "), f"{summary.mean:.2f}", _width(summary.ci95)


def _width(half_width: float | None) -> str:
    return "" if half_width is None else f"{half_width:.2f}"
