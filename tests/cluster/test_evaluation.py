"""The evaluation service's references, where the family does not know the optimum."""

import json

from causeway.actors.tasks.point_robot import PointRobot
from causeway.cluster.evaluation import EvaluationService
from tests.tiny_runs import make_data, tiny_config


class Secretive(PointRobot):
    """Point robots that do not tell what their tasks are worth."""

    def optimal_return(self, task):
        """Nothing is known."""


def oracle_return(folder, told):
    """The oracle's returns, of data whose manifest tells that much of experts, by task."""
    family = f"{__name__}:Secretive"
    data = make_data(folder / "data", family)
    manifest = json.loads((data / "manifest.json").read_text())
    for task, expert in told.items():
        manifest["references"][task]["expert"] = expert
    (data / "manifest.json").write_text(json.dumps(manifest))
    config = tiny_config(folder, data, f"--data.family={family}")
    return EvaluationService(config).references()["oracle_return"]


def test_without_an_optimum_the_oracle_is_the_expert_of_the_data_set(tmp_path):
    told = {str(task): -float(task) for task in range(40, 50)}
    assert list(oracle_return(tmp_path, told).per_task) == list(told.values())


def test_there_is_no_oracle_where_a_held_out_task_has_no_expert(tmp_path):
    told = {str(task): -float(task) for task in range(40, 49)}
    assert oracle_return(tmp_path, told) is None
