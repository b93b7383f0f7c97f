"""Configurations: what is read is what was meant, and what cannot be read says why."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.cluster.config_io import (
    ConfigError,
    dump_yaml,
    known_keys,
    load_config,
    merge,
    parse_overrides,
    read_yaml,
    structure,
)
from causeway.learners.registry import algorithms, load_algorithm


@dataclass(frozen=True, kw_only=True)
class FixedEntropy:
    weight: float = 0.2


@dataclass(frozen=True, kw_only=True)
class LearnedEntropy:
    target: float = -2.0


@dataclass(frozen=True, kw_only=True)
class Learner:
    discount: float = 0.99
    hidden: tuple[int, ...] = (300, 300)
    actor_weight: Literal["softmax", "exp"] = "softmax"
    clip: float | None = None
    entropy: FixedEntropy | LearnedEntropy = FixedEntropy()

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"Learner.discount must lie in [0, 1), got {self.discount}")


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str = "run"
    seed: int = 0
    folder: Path = Path("runs")
    resume: bool = False
    ratio: int | float = 4
    box: tuple[float, float] = (-1.0, 1.0)
    weights: dict[str, float] = field(default_factory=dict)
    learner: Learner = Learner()


@dataclass(frozen=True, kw_only=True)
class NeedsAName:
    name: str
    learner: Learner = Learner()


def load(text: str, tmp_path: Path, *overrides: str) -> Run:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(Run, path, overrides)


def fault(text: str, tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path, *overrides)
    assert len(caught.value.args) == 1
    return str(caught.value)


def test_without_a_file_the_defaults_of_the_classes_hold():
    assert load_config(Run) == Run()


def test_an_empty_file_and_an_empty_section_are_all_defaults(tmp_path):
    assert load("", tmp_path) == Run()
    assert load("learner:\n  # discount: 0.9\n", tmp_path) == Run()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path):
    run = load("seed: 3\nlearner:\n  discount: 0.9\n  hidden: [64, 64, 64]\n", tmp_path)
    assert run == Run(seed=3, learner=Learner(discount=0.9, hidden=(64, 64, 64)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learner: {discount: 3e-4}", Run(learner=Learner(discount=3e-4))),
        ("learner: {discount: 0}", Run(learner=Learner(discount=0.0))),
        ("seed: 50_000", Run(seed=50_000)),
        ("seed: 1e6", Run(seed=1_000_000)),
        ("name: off", Run(name="off")),
        ("name: 12:30:00", Run(name="12:30:00")),
        ("name: 2026-01-01", Run(name="2026-01-01")),
        ("name: 010", Run(name="010")),
        ("resume: true", Run(resume=True)),
        ("ratio: 3.5", Run(ratio=3.5)),
        ("learner: {clip: null}", Run()),
        ("learner: {clip: 2}", Run(learner=Learner(clip=2.0))),
        ("learner: {clip: .inf}", Run(learner=Learner(clip=float("inf")))),
        ("weights: {kl: 1, reward: 0.5}", Run(weights={"kl": 1.0, "reward": 0.5})),
        ("folder: /data/x", Run(folder=Path("/data/x"))),
    ],
)
def test_plain_values_mean_what_they_look_like(text, expected, tmp_path):
    assert load(text, tmp_path) == expected


def test_whole_and_fractional_numbers_keep_their_kind_where_both_are_allowed(tmp_path):
    assert type(load("ratio: 3", tmp_path).ratio) is int
    assert type(load("ratio: 3.0", tmp_path).ratio) is float


@pytest.mark.parametrize(
    ("text", "field_name", "wanted", "given_value"),
    [
        ("seed: abc", "seed", "a whole number", "'abc' (text)"),
        ("seed: '3'", "seed", "a whole number", "'3' (text)"),
        ("seed: 1.5", "seed", "a whole number", "1.5"),
        ("seed: true", "seed", "a whole number", "true"),
        ("seed:", "seed", "a whole number", "nothing (null)"),
        ("name: 3", "name", "text", "3 (a number)"),
        ("resume: off", "resume", "true or false", "'off' (text)"),
        ("resume: 1", "resume", "true or false", "1"),
        ("learner: {discount: yes}", "learner.discount", "a number", "'yes' (text)"),
        ("learner: {clip: .nan}", "learner.clip", "a number", "nan"),
        ("learner: 3", "learner", "a section with the keys discount, hidden", "3"),
        ("learner: {hidden: 300}", "learner.hidden", "a list, each a whole number", "300"),
        ("learner: {hidden: [300, x]}", "learner.hidden[1]", "a whole number", "'x' (text)"),
        ("learner: {hidden: abc}", "learner.hidden", "a list", "'abc' (text)"),
        ("box: [1]", "box", "a list of 2: a number, a number", "[1]"),
        ("weights: {kl: high}", "weights.kl", "a number", "'high' (text)"),
        ("weights: 3", "weights", "a mapping", "3"),
        ("ratio: x", "ratio", "a whole number or a number", "'x' (text)"),
        ("folder: 3", "folder", "a path", "3"),
    ],
)
def test_a_value_of_the_wrong_kind_names_field_expectation_and_value(
    text, field_name, wanted, given_value, tmp_path
):
    message = fault(text, tmp_path)
    assert message.startswith(f"{tmp_path / 'run.yaml'}: {field_name} must be {wanted}")
    assert f"got {given_value}" in message


def test_an_unknown_key_suggests_the_nearest_known_one(tmp_path):
    message = fault("learner: {discont: 0.9}", tmp_path)
    assert "'learner.discont' is not a known key; did you mean 'learner.discount'?" in message
    assert "Known in 'learner': discount, hidden, actor_weight, clip, entropy." in message


def test_an_unknown_key_that_belongs_to_another_section_is_sent_there(tmp_path):
    assert "did you mean 'learner.discount'?" in fault("discount: 0.9", tmp_path)


def test_an_unknown_key_like_none_of_ours_lists_the_known_ones_without_a_guess(tmp_path):
    message = fault("zzz: 1", tmp_path)
    assert "did you mean" not in message
    assert "Known: name, seed, folder" in message


def test_a_key_that_is_not_text_is_unknown_too(tmp_path):
    assert "'1' is not a known key" in fault("1: 2", tmp_path)


def test_a_choice_lists_its_options_and_guesses(tmp_path):
    message = fault("learner: {actor_weight: sofmax}", tmp_path)
    assert "learner.actor_weight must be one of softmax, exp, got 'sofmax'" in message
    assert "did you mean softmax?" in message


def test_what_a_class_refuses_is_told_with_its_section(tmp_path):
    message = fault("learner: {discount: 1.0}", tmp_path)
    assert message.endswith("learner: Learner.discount must lie in [0, 1), got 1.0")


def test_all_faults_of_a_file_are_told_at_once(tmp_path):
    message = fault("seed: x\nnmae: y\nlearner: {hidden: [a, b], discount: q}", tmp_path)
    assert "has 5 faults:" in message
    for start in ("seed must", "'nmae' is", "learner.hidden[0]", "learner.hidden[1]", "learner.d"):
        assert f"\n  - {start}" in message


def test_a_missing_value_without_a_default_is_named():
    with pytest.raises(ConfigError, match=r"^here: name must be given: it has no default$"):
        structure(NeedsAName, {}, "here")


def test_a_variant_is_chosen_by_the_name_of_its_class(tmp_path):
    run = load("learner: {entropy: {type: LearnedEntropy, target: -3}}", tmp_path)
    assert run.learner.entropy == LearnedEntropy(target=-3.0)


def test_a_variant_without_its_name_lists_the_variants(tmp_path):
    message = fault("learner: {entropy: {target: -3}}", tmp_path)
    assert "learner.entropy must name its variant under 'type'" in message
    assert "FixedEntropy, LearnedEntropy" in message


def test_a_variant_refuses_the_keys_of_another(tmp_path):
    message = fault("learner: {entropy: {type: LearnedEntropy, weight: 1}}", tmp_path)
    assert "'learner.entropy.weight' is not a known key" in message


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    message = fault("seed: 1\nname: a\nseed: 2\n", tmp_path)
    assert "run.yaml, line 3, column 1: the key 'seed' is given twice" in message


def test_a_broken_file_is_refused_with_its_line(tmp_path):
    assert "run.yaml, line 3, column 4" in fault("seed: 1\nname: [1, 2\n  x: }", tmp_path)


def test_a_file_may_not_name_python_objects(tmp_path):
    assert "could not determine a constructor" in fault(
        "name: !!python/object/apply:os.system ['true']", tmp_path
    )


def test_a_file_without_sections_is_refused(tmp_path):
    assert "must hold sections" in fault("- 1\n- 2\n", tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_yaml(path)


def test_an_absent_file_guesses_its_neighbour(tmp_path):
    (tmp_path / "point-robot.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"did you mean .*point-robot\.yaml\?"):
        load_config(Run, tmp_path / "point_robot.yaml")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "7"], Run(seed=7)),
        (["--seed=7"], Run(seed=7)),
        (["--name", "007"], Run(name="007")),
        (["--name=null"], Run(name="null")),
        (["--resume", "true"], Run(resume=True)),
        (["--learner.discount", "9e-1"], Run(learner=Learner(discount=0.9))),
        (["--learner.hidden", "[8, 8]"], Run(learner=Learner(hidden=(8, 8)))),
        (["--learner.hidden", "8,16"], Run(learner=Learner(hidden=(8, 16)))),
        (["--learner.actor-weight", "exp"], Run(learner=Learner(actor_weight="exp"))),
        (["--learner.clip", "null"], Run()),
        (["--box", "-3,-2"], Run(box=(-3.0, -2.0))),
        (["--ratio", "-2.5"], Run(ratio=-2.5)),
        (["--learner", "{discount: 0.5}"], Run(learner=Learner(discount=0.5))),
        (
            ["--learner.entropy.type", "LearnedEntropy", "--learner.entropy.target", "1"],
            Run(learner=Learner(entropy=LearnedEntropy(target=1.0))),
        ),
        (["--weights.kl", "0.1"], Run(weights={"kl": 0.1})),
        (["--seed", "1", "--seed", "2"], Run(seed=2)),
    ],
)
def test_an_override_is_read_as_its_field_wants_it(words, expected):
    assert load_config(Run, None, words) == expected


def test_overrides_lie_on_top_of_the_file_section_by_section(tmp_path):
    run = load("seed: 1\nlearner: {discount: 0.9, clip: 5}", tmp_path, "--learner.clip", "6")
    assert run == Run(seed=1, learner=Learner(discount=0.9, clip=6.0))


def test_a_faulty_override_names_the_command_line_and_the_field():
    with pytest.raises(ConfigError, match=r"^the command line: learner\.discount must be a number"):
        load_config(Run, None, ["--learner.discount", "lots"])
    with pytest.raises(ConfigError, match=r"did you mean 'learner\.discount'"):
        load_config(Run, None, ["--learner.discont", "0.9"])
    with pytest.raises(ConfigError, match=r"did you mean 'learner'"):
        load_config(Run, None, ["--leaner.discount", "0.9"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["seed", "7"], "'seed' is not an override"),
        (["--"], "'--' is not an override"),
        (["--seed"], "--seed must be followed by its value"),
        (["--resume", "--seed", "3"], "--resume must be followed by its value"),
        (["--learner..x", "3"], "has an empty part"),
        (["--seed", "3", "--seed.x", "4"], "contradicts the value given to 'seed'"),
        (["--learner.clip", "3", "--learner", "{}"], "contradicts the keys given below it"),
    ],
)
def test_words_that_are_no_overrides_are_refused(words, complaint):
    with pytest.raises(ConfigError) as caught:
        parse_overrides(words)
    assert complaint in str(caught.value)


def test_merging_alters_neither_side():
    base, changes = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, changes) == {"a": {"b": 1, "c": 2}}
    assert (base, changes) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_known_keys_hold_sections_their_fields_and_those_of_every_variant():
    keys = known_keys(Run)
    assert keys[:2] == ["name", "seed"]
    assert {"learner", "learner.entropy.weight", "learner.entropy.target"} <= set(keys)


def test_the_resolved_configuration_writes_every_field_and_names_variants():
    text = dump_yaml(Run(learner=Learner(entropy=LearnedEntropy())))
    assert "hidden: [300, 300]" in text
    assert "clip: null" in text
    assert "type: LearnedEntropy" in text


@pytest.mark.parametrize("name", sorted(algorithms()))
def test_every_algorithms_configuration_survives_a_round_trip(name, tmp_path):
    config_class = load_algorithm(name).Config
    path = tmp_path / "learner.yaml"
    path.write_text(dump_yaml(config_class()))
    assert load_config(config_class, path) == config_class()


numbers = st.floats(allow_nan=False)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",))),
    seed=st.integers(),
    clip=st.none() | numbers,
    ratio=st.integers() | numbers,
    weights=st.dictionaries(st.text(st.characters(codec="ascii")), numbers, max_size=3),
    entropy=st.builds(FixedEntropy, weight=numbers) | st.builds(LearnedEntropy, target=numbers),
)
def test_what_is_written_is_read_back_equal(
    tmp_path_factory, name, seed, clip, ratio, weights, entropy
):
    run = Run(
        name=name,
        seed=seed,
        ratio=ratio,
        weights=weights,
        learner=Learner(clip=clip, entropy=entropy),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(dump_yaml(run), encoding="utf-8", newline="")
    read = load_config(Run, path)
    assert read == run
    assert type(read.ratio) is type(run.ratio)
