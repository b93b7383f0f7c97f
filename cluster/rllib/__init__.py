"""RLlib's face of Causeway: a run as an `Algorithm`, for Tune, callbacks and RLlib's users.

    from causeway.cluster.rllib import CausewayConfig

    algorithm = CausewayConfig().causeway(overrides=["--run.seed=1"]).build_algo()
    while not (result := algorithm.train())["done"]:
        print(result["updates"], result["returns"])
    algorithm.stop()

It adapts and holds no mathematics. Nothing else in Causeway imports it, and it alone imports RLlib.
"""

from causeway.cluster.rllib.algorithm import Causeway
from causeway.cluster.rllib.config import CausewayConfig
from causeway.cluster.rllib.module import CausewayModule, module_spec

__all__ = ["Causeway", "CausewayConfig", "CausewayModule", "module_spec"]
