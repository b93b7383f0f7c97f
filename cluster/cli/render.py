"""`causeway render`: a run's policy on film, before it adapts and after."""

import os
from pathlib import Path
from typing import Annotated

import typer

from causeway.cluster.cli.output import print_line
from causeway.cluster.cli.report import RunFolder
from causeway.cluster.config_yaml import ConfigError

SHAPE = 3 / 4  # height of a picture over its width


def render(
    folder: RunFolder,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The film, .gif or .mp4; default: adaptation.gif in the run."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Ids with commas; default: three of the held-out ones."),
    ] = None,
    width: Annotated[
        int, typer.Option("--width", min=160, max=640, help="Of one picture, in pixels.")
    ] = 320,
    speed: Annotated[
        float,
        typer.Option("--speed", min=0.05, max=20, help="0.5 shows it half as fast as it is."),
    ] = 1.0,
) -> None:
    """Film the policy of a run's last checkpoint while it adapts to tasks.

    Above, its first episode in each task; below, its last, adapted to what the ones between them
    found. The numbers are what the episode has earned so far.
    """
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # no window; read when mujoco is imported

    from causeway.cluster.film.cameras import FilmError
    from causeway.cluster.film.filming import film_adaptation
    from causeway.cluster.film.writing import check_format, write_film
    from causeway.cluster.launch import trained_run
    from causeway.cluster.progress import ProgressView

    path = folder / "adaptation.gif" if to is None else to
    config, checkpoint = trained_run(folder, to_be="filmed")
    try:
        check_format(path)
        with ProgressView(f"filming {folder}") as view:
            view.update(phase="playing", unit="environment steps")
            film = film_adaptation(
                config,
                checkpoint,
                None if tasks is None else _ids(tasks),
                width=width,
                height=round(SHAPE * width),
                speed=speed,
                progress=lambda done, total: view.update(completed=done, total=total),
            )
            view.update(phase="writing", unit="frames")
            write_film(film, path, lambda done, total: view.update(completed=done, total=total))
    except FilmError as error:
        raise ConfigError(str(error)) from error
    print_line(str(path))


def _ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--tasks must be ids with commas, such as 3,7, got {text!r}")
    return [int(word) for word in words]
