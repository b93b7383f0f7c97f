"""What all context-based methods can be told."""

from dataclasses import dataclass

from causeway.learners.actor_critic import ActorCriticConfig


@dataclass(frozen=True, kw_only=True)
class ContextConfig(ActorCriticConfig):
    """Hyperparameters that all context-based methods share."""

    latent_dim: int = 5
    next_observation_in_context: bool = False  # True where dynamics differ between tasks
    context_learning_rate: float = (
        3e-4  # of Adam, for all that infers the task and predicts from it
    )
    context_half_life: int | None = None  # updates in which that rate halves; ours, None keeps it

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_positive("latent_dim", "context_learning_rate")
        if self.context_half_life is not None and self.context_half_life < 1:
            raise ValueError(
                f"{type(self).__name__}.context_half_life must be at least 1 update, or null for a "
                f"rate that stays as it is, got {self.context_half_life}"
            )
