"""A sweep of Tune's over runs. A file of its own: its Ray has one CPU, and no other may be up."""

import pytest
from ray import tune

from causeway.cluster.ray_local import RayConfig, ray_session
from causeway.cluster.rllib import Causeway, CausewayConfig
from tests.cluster.test_rllib import causeway_actors
from tests.tiny_runs import write_yaml

SEARCHED = "hyperparameters.learning_rate"


@pytest.mark.ray
@pytest.mark.slow
def test_tune_sweeps_over_hyperparameters(tmp_path, tiny_data):
    config = CausewayConfig().causeway(
        path=write_yaml(tmp_path, tiny_data),
        overrides=[f"--data.path={tmp_path}/absent", "--data.episodes_per_task=2"],
        search={
            SEARCHED: tune.grid_search([1e-3, 1e-4]),
            "hyperparameters.temperature": tune.uniform(1.0, 100.0),
        },
    )
    tuner = tune.Tuner(
        Causeway,
        param_space=config,
        tune_config=tune.TuneConfig(metric="returns/online_context_return", mode="max"),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "tune"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    # One CPU, for which the trials take turns: each has its learner in its placement group.
    with ray_session(RayConfig(num_cpus=1, object_store_bytes=200_000_000)):
        results = tuner.fit()
        assert results.errors == []
        assert [result.metrics["updates"] for result in results] == [40, 40]
        assert len({result.metrics["returns"]["prior_return"] for result in results}) == 2
        assert causeway_actors() == []
        best = Causeway.from_checkpoint(results.get_best_result().checkpoint)
        found = best._run_config().hyperparameters.learning_rate
        assert found == results.get_best_result().config["causeway_search"][SEARCHED]
        best.stop()
