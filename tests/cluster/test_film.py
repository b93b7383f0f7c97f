"""Films of adaptation: what they show is what the evaluation earned, and every kind can be seen."""

import dataclasses
import shutil
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from PIL import Image

from causeway.actors.evaluator import evaluate
from causeway.actors.gymnasium_dynamics import GymnasiumDynamics
from causeway.actors.tasks.family import Task, find_split
from causeway.actors.tasks.point_robot import PointDynamics
from causeway.actors.tasks.registry import load_family
from causeway.cluster.cli.main import run
from causeway.cluster.film.cameras import FilmError, find_camera
from causeway.cluster.film.filming import Film, Shot, film_adaptation
from causeway.cluster.film.writing import write_film
from causeway.cluster.launch import existing_run
from causeway.cluster.learner import checkpoint_policy, row_layout

OK, USER_ERROR = 0, 2
WIDTH, HEIGHT = 160, 120


def refusal(capsys, *words):
    """What a refused command line says."""
    capsys.readouterr()
    assert run(["render", *map(str, words)]) == USER_ERROR
    return " ".join(capsys.readouterr().err.split())


def film_of(folder, task_ids=None, speed=1.0, progress=lambda done, total: None):
    config, checkpoint, _ = existing_run(folder)
    return film_adaptation(
        config,
        checkpoint,
        task_ids,
        width=WIDTH,
        height=HEIGHT,
        speed=speed,
        progress=progress,
    )


def test_a_film_earns_what_an_evaluation_of_the_same_tasks_does(trained):
    told = []
    film = film_of(trained, [44, 3], progress=lambda *numbers: told.append(numbers))
    config, checkpoint, _ = existing_run(trained)
    family = load_family(config.data.family)
    layout = row_layout(config, family)
    by_id = {task.id: task for task in find_split(family, config.data.split).tasks}
    found = evaluate(
        checkpoint_policy(config, checkpoint, layout),
        family,
        [by_id[44], by_id[3]],
        layout=layout,
        protocol=config.evaluation.online_protocol,
        config=dataclasses.replace(config.evaluation, repeats=1),
        seed=config.run.seed,
        offline_contexts=None,
    )
    assert [task.id for task in film.tasks] == [44, 3]
    assert film.num_episodes == found.returns.shape[2] == 3
    for shots, returns in (
        (film.first, found.returns[:, 0, 0]),
        (film.last, found.returns[:, 0, -1]),
    ):
        np.testing.assert_allclose([one[-1].earned for one in shots], returns, rtol=1e-5)
        assert [len(one) for one in shots] == [family.horizon + 1] * 2
        assert all(one[0].earned == 0.0 for one in shots)
    assert told[-1] == (3 * family.horizon, 3 * family.horizon)


def test_faster_films_leave_pictures_out_but_never_the_last(trained):
    film = film_of(trained, [44], speed=6.0)
    assert film.num_frames == 1 + 20 // 3 + 1  # every third step, and the end
    assert film.frame_s == pytest.approx(3 * 0.1 / 6.0)
    assert film.last[0][-1].earned == film_of(trained, [44]).last[0][-1].earned


def test_render_writes_a_gif_into_the_run_of_three_held_out_tasks(trained, tmp_path, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(trained, folder)
    assert run(["render", str(folder), "--width", str(WIDTH)]) == OK
    path = folder / "adaptation.gif"
    assert str(path) in "".join(capsys.readouterr().out.split())
    with Image.open(path) as film:
        assert film.n_frames == 21
        assert film.size[0] >= 3 * WIDTH
        assert film.size[1] >= 2 * HEIGHT
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
        assert durations == [100] * 20 + [1500]
        last = np.asarray(film.convert("RGB"))
        film.seek(0)
        assert (np.asarray(film.convert("RGB")) != last).any()
    assert not list(folder.glob(".*partial*"))


def test_render_writes_an_mp4_that_plays(trained, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "new" / "film.mp4"
    assert run(["render", str(trained), "--to", str(path), "--tasks", "41", "--width", "160"]) == OK
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 21 + 14  # the last one stands still
    assert seconds == pytest.approx(3.5, abs=0.1)


def test_render_refuses_what_it_cannot_do_and_says_what_to_do(trained, tmp_path, capsys):
    assert "end in .gif or .mp4" in refusal(capsys, trained, "--to", tmp_path / "film.avi")
    assert "it has 0 to 49, of which 40 to 49 are held out" in refusal(
        capsys, trained, "--tasks", "41,99"
    )
    assert "ids with commas" in refusal(capsys, trained, "--tasks", "first")
    assert "tasks must be at most 8" in refusal(capsys, trained, "--tasks", "1,2,3,4,5,6,7,8,9")
    assert "Invalid value for '--speed'" in refusal(capsys, trained, "--speed", "0")
    assert "Invalid value for '--width'" in refusal(capsys, trained, "--width", "5000")
    bare = tmp_path / "demo"
    shutil.copytree(trained, bare, ignore=shutil.ignore_patterns("checkpoints"))
    assert "must have a checkpoint to be filmed" in refusal(capsys, bare)
    assert not (bare / "adaptation.gif").exists()
    assert list(tmp_path.glob("film*")) == []


def make_film(*lengths):
    """Tasks whose first episodes are so long, and whose last ones are of one picture."""

    def shots(count, level):
        picture = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
        return tuple(
            Shot(picture=picture if n else picture // 2, earned=-float(n)) for n in range(count)
        )

    tasks = tuple(
        Task(id=n, reward={"velocity": 0.5}, dynamics={"mass": 1.25}) for n in range(len(lengths))
    )
    return Film(
        tasks=tasks,
        num_episodes=3,
        first=tuple(shots(count, 200) for count in lengths),
        last=tuple(shots(1, 100) for _ in lengths),
        frame_s=0.05,
    )


def test_an_episode_that_ends_early_stands_still_until_the_others_end(tmp_path):
    told = []
    write_film(make_film(2, 9), tmp_path / "film.gif", lambda *numbers: told.append(numbers))
    assert told == [(n, 9) for n in range(1, 10)]
    with Image.open(tmp_path / "film.gif") as film:
        film.seek(1)
        second = np.asarray(film.convert("RGB")).astype(int)
        film.seek(film.n_frames - 1)
        assert film.n_frames == 9
        last = np.asarray(film.convert("RGB")).astype(int)
    left, right = np.split(np.abs(second - last).sum(axis=2), [WIDTH + 12], axis=1)
    assert left.max() == 0  # its words, too
    assert right.max() > 0


def test_a_film_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "film.gif"
    path.write_bytes(b"old")

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(make_film(3), path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def opengl():
    """Skips where robots cannot be drawn."""
    try:
        mujoco.GLContext(8, 8).make_current()
    except Exception as error:  # what a missing driver raises differs from one to the next
        pytest.skip(f"no OpenGL without a window: {error}")


def look_at(family_name, task, steps=0, action=0.0):
    """The picture of a task's robot after so many steps of the same action."""
    family = load_family(family_name)
    dynamics = family.dynamics([task.dynamics])
    camera = find_camera(dynamics, [task], planar=False, width=WIDTH, height=HEIGHT)
    observation = dynamics.reset(np.random.default_rng(0))
    picture = camera.look(0, observation[0], 0)
    for _ in range(steps):
        dynamics.step(np.full((1, family.action_size), action, np.float32))
    return camera.look(0, observation[0], steps) if steps else picture


def of_goal(picture):
    """Where the picture shows what the task asks for."""
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
    return (red > 150) & (green > 110) & (blue < 60)


def columns(picture):
    return np.flatnonzero(of_goal(picture).any(axis=0))


def test_a_post_runs_ahead_at_the_speed_a_cheetah_is_asked_for(opengl):
    still, slow, fast = (Task(id=0, reward={"velocity": v}) for v in (0.0, 0.5, 1.0))
    begin, behind, ahead = (
        columns(look_at("cheetah-vel", task, steps=20)).mean() for task in (still, slow, fast)
    )
    assert ahead - begin == pytest.approx(2.0 * (behind - begin), rel=0.15)
    assert behind - begin > WIDTH / 16
    gone = Task(id=0, reward={"velocity": 3.0})
    assert columns(look_at("cheetah-vel", gone, steps=60)).size == 0


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_an_arrow_points_where_a_cheetah_is_to_run(opengl, direction):
    picture = look_at("cheetah-dir", Task(id=0, reward={"direction": direction}))
    arrow = columns(picture)
    wide = of_goal(picture).sum(axis=0)[arrow]
    head = arrow[wide.argmax()]  # where an arrow is widest
    assert (head - arrow.mean()) * direction > 0


def test_an_arrow_points_where_an_ant_is_to_run(opengl):
    right, left = (
        columns(look_at("ant-dir", Task(id=0, reward={"angle": angle}))).mean()
        for angle in (0.0, np.pi)
    )
    assert left < WIDTH / 2 < right


def test_a_ball_lies_where_an_ant_is_to_go(opengl):
    tasks = [Task(id=0, reward={"goal_x": x, "goal_y": 0.0}) for x in (1.5, -1.5)]
    right, left = (columns(look_at("ant-goal", task)).mean() for task in tasks)
    assert right - WIDTH / 2 == pytest.approx(WIDTH / 2 - left, abs=2.0)
    assert right - left > WIDTH / 8


@pytest.mark.parametrize("name", ["hopper-params", "walker-params", "humanoid-dir"])
def test_each_robot_moves_before_the_camera(opengl, name):
    family = load_family(name)
    task = next(iter(family.splits().values())).test[0]
    begin, later = (look_at(name, task, steps=steps, action=0.5) for steps in (0, 8))
    assert begin.shape == (HEIGHT, WIDTH, 3)
    assert (begin != later).any(axis=2).mean() > 0.01


def test_the_camera_leaves_the_robots_as_they_are(opengl):
    family = load_family("cheetah-vel")
    task = Task(id=0, reward={"velocity": 1.0})
    states = []
    for looks in (False, True):
        dynamics = family.dynamics([{}])
        camera = find_camera(dynamics, [task], planar=False, width=WIDTH, height=HEIGHT)
        dynamics.reset(np.random.default_rng(1))
        for step in range(5):
            if looks:
                camera.look(0, np.zeros(20, np.float32), step)
            dynamics.step(np.full((1, 6), 0.3, np.float32))
        states.append(dynamics.observe())
    np.testing.assert_array_equal(*states)


def test_without_opengl_it_says_what_to_install(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no display\nand more")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    with pytest.raises(FilmError, match=r"\(no display\): install a driver.*MUJOCO_GL"):
        look_at("cheetah-vel", Task(id=0, reward={"velocity": 1.0}))


def test_a_map_shows_where_a_point_has_been_in_its_episode():
    tasks = [Task(id=0, reward={"goal_x": 0.0, "goal_y": 1.0}), Task(id=1)]
    camera = find_camera(PointDynamics(2, 20), tasks, planar=True, width=WIDTH, height=HEIGHT)
    origin, there = np.zeros(2, np.float32), np.array([0.6, 0.3], np.float32)
    begin = camera.look(0, origin, 0)
    moved = camera.look(0, there, 1)
    assert begin.shape == (HEIGHT, WIDTH, 3)
    assert (moved != begin).any()
    goal = np.argwhere((begin[..., 0].astype(int) - begin[..., 2]) > 100)
    assert 0 < goal[:, 0].min() < goal[:, 0].mean() < HEIGHT / 4  # above, and all of it
    np.testing.assert_array_equal(camera.look(0, origin, 0), begin)  # forgets the path
    far = camera.look(0, np.array([9.0, 0.0], np.float32), 1)
    assert (far != begin).any()  # grew: the point is still on it
    assert np.argwhere(far.astype(int).sum(axis=2) < 150)[:, 1].max() < WIDTH
    assert (camera.look(1, origin, 0) != begin).any()  # no goal of its own


class Flashing:
    """A `gymnasium.Env`, as far as dynamics ask, that shows how often it was stepped."""

    def __init__(self, render_mode="rgb_array"):
        from gymnasium.spaces import Box

        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.render_mode, self._steps = render_mode, 0

    def reset(self, seed=None):
        self._steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self._steps += 1
        return np.zeros(3, np.float32), 0.0, False, False, {}

    def render(self):
        return np.full((HEIGHT, WIDTH, 3), self._steps, np.uint8)


def gymnasium_camera(**given):
    dynamics = GymnasiumDynamics(
        lambda: Flashing(**given),
        [{}],
        set_task=lambda environment, parameters: None,
        measure=None,
        measurement_size=0,
        horizon=5,
    )
    dynamics.reset(np.random.default_rng(0))
    dynamics.step(np.zeros((1, 1), np.float32))
    return find_camera(dynamics, [Task(id=0)], planar=False, width=WIDTH, height=HEIGHT)


def test_gymnasium_environments_show_themselves():
    assert gymnasium_camera().look(0, np.zeros(3, np.float32), 1).tolist()[0][0] == [1, 1, 1]
    with pytest.raises(FilmError, match="render_mode='rgb_array' to be looked at, got 'human'"):
        gymnasium_camera(render_mode="human").look(0, np.zeros(3, np.float32), 1)


def test_environments_that_nothing_can_look_at_are_refused():
    size = {"planar": False, "width": 9, "height": 9}
    with pytest.raises(FilmError, match="a method picture"):
        find_camera(SimpleNamespace(num_envs=1), [Task(id=0)], **size)
    showing = SimpleNamespace(num_envs=1, picture=lambda env: np.zeros((4, 4)))
    with pytest.raises(FilmError, match=r"bytes \[H, W, 3\], got float64 \[4, 4\]"):
        find_camera(showing, [Task(id=0)], **size).look(0, np.zeros(3, np.float32), 1)
