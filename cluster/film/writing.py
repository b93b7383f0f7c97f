"""A film as a file: pictures side by side with their words, as a GIF or an MP4."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from causeway.actors.tasks.family import Task
from causeway.cluster.film.cameras import FilmError
from causeway.cluster.film.filming import Film, Shot
from causeway.cluster.report.style import COLOURS

LAST_FRAME_S = 1.5  # how long it stands
_MARGIN = 8  # pixels
_COLOURS_OF_GIF = 128
_LONGEST_NAME = 24  # letters of a task's parameters


def write_film(film: Film, path: Path, progress: Callable[[int, int], None]) -> None:
    """Writes a film; a file that was there is replaced once the new one is whole.

    Args:
        film: what is shown.
        path: its ending tells the format: `.gif` or `.mp4`.
        progress: told how many of how many frames are done.

    Raises:
        FilmError: no such format, or it needs a package that is not there.
    """
    write = check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(film, partial, progress)
        os.replace(partial, path)  # noqa: PTH105  # a viewer sees the old film or the new one
    finally:
        partial.unlink(missing_ok=True)


def check_format(path: Path) -> Callable[[Film, Path, Callable[[int, int], None]], None]:
    """What writes files of that name.

    Raises:
        FilmError: nothing does, or not without another package.
    """
    if path.suffix == ".gif":
        return _write_gif
    if path.suffix != ".mp4":
        raise FilmError(f"a film's file must end in .gif or .mp4, got {path}")
    try:
        import imageio_ffmpeg  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise FilmError(
            "an .mp4 needs the package imageio-ffmpeg: pip install 'causeway[video]', or let the "
            "file end in .gif"
        ) from error
    return _write_mp4


def _write_gif(film: Film, path: Path, progress: Callable[[int, int], None]) -> None:
    page = _Page(film)
    frames = _frames(page, film, progress)
    first = next(frames)
    # One palette for all frames: colours do not flicker, and what stands still costs nothing.
    palette = page.frame(film.num_frames // 2).quantize(_COLOURS_OF_GIF, Image.Quantize.MEDIANCUT)
    indexed = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    standing_ms = round(1000 * LAST_FRAME_S)
    with path.open("wb") as file:  # Pillow would leave one of its own open when it is interrupted
        first.quantize(palette=palette, dither=Image.Dither.NONE).save(
            file,
            format="GIF",
            save_all=True,
            append_images=indexed,
            duration=[round(1000 * film.frame_s)] * (film.num_frames - 1) + [standing_ms],
            loop=0,
        )


def _write_mp4(film: Film, path: Path, progress: Callable[[int, int], None]) -> None:
    import imageio_ffmpeg

    standing = round(LAST_FRAME_S / film.frame_s)
    writer = None
    try:
        for number, frame in enumerate(_frames(_Page(film), film, progress), start=1):
            if writer is None:
                writer = imageio_ffmpeg.write_frames(
                    str(path), frame.size, fps=1.0 / film.frame_s, macro_block_size=2
                )
                writer.send(None)
            for _ in range(standing if number == film.num_frames else 1):
                writer.send(np.ascontiguousarray(frame))
    finally:
        if writer is not None:
            writer.close()


def _frames(
    page: "_Page", film: Film, progress: Callable[[int, int], None]
) -> Iterator[Image.Image]:
    for number in range(film.num_frames):
        yield page.frame(number)
        progress(number + 1, film.num_frames)


class _Page:
    """Where pictures and words stand: tasks in columns, the first episode above the last."""

    def __init__(self, film: Film) -> None:
        self._film = film
        self._height, self._width = film.first[0][0].picture.shape[:2]
        size = max(10, self._width // 21)
        self._bold = ImageFont.truetype(findfont("DejaVu Sans:bold"), size)
        self._font = ImageFont.truetype(findfont("DejaVu Sans"), size)
        self._line = round(1.7 * size)
        self._rows = (
            ("episode 1", COLOURS["before"], film.first),
            (f"episode {film.num_episodes}, adapted", COLOURS["after"], film.last),
        )

    def frame(self, number: int) -> Image.Image:
        """The frame of that number, from 0."""
        rows, columns = len(self._rows), len(self._film.tasks)
        size = (
            columns * (self._width + _MARGIN) + _MARGIN,
            self._line + rows * (self._line + self._height + _MARGIN),
        )
        page = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
        draw = ImageDraw.Draw(page)
        for column, task in enumerate(self._film.tasks):
            left = _MARGIN + column * (self._width + _MARGIN)
            self._write(draw, (left, 0), _name(task), COLOURS["ink"], self._bold)
            for row, (label, colour, shots) in enumerate(self._rows):
                top = self._line + row * (self._line + self._height + _MARGIN)
                shot = _shot_at(shots[column], number)
                page.paste(Image.fromarray(shot.picture), (left, top + self._line))
                if column == 0:
                    self._write(draw, (left, top), label, colour, self._bold)
                right, earned = (left + self._width, top), f"{shot.earned:.1f}"
                self._write(draw, right, earned, colour, self._font, anchor="rm")
        return page

    def _write(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[int, int],
        words: str,
        colour: str,
        font: ImageFont.FreeTypeFont,
        *,
        anchor: str = "lm",  # Pillow's: from the left, or "rm", from the right
    ) -> None:
        middle = (at[0], at[1] + self._line // 2)
        draw.text(middle, words, fill=colour, font=font, anchor=anchor)


def _name(task: Task) -> str:
    """What the task is, in few letters; where its goal is, the picture tells."""
    told = {name: v for name, v in task.parameters.items() if not name.startswith("goal")}
    words = ", ".join(f"{name} {value:.3g}" for name, value in told.items())
    return f"task {task.id}: {words}" if 0 < len(words) <= _LONGEST_NAME else f"task {task.id}"


def _shot_at(shots: tuple[Shot, ...], number: int) -> Shot:
    """An episode that has ended stands still."""
    return shots[min(number, len(shots) - 1)]
