"""AdamW with gradient clipping and a learning rate that warms up and decays."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

SCHEDULES: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "constant": jnp.ones_like,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + jnp.cos(jnp.pi * share)),
}
"""Share of the peak learning rate that is left at a share (0 to 1) of the steps after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), as `torch.optim.AdamW` computes it.

    Attributes:
        peak: the highest learning rate.
        steps: of the whole run; the schedule ends there.
        schedule: key of `SCHEDULES`.
        warmup: steps in which the rate rises to `peak`.
        warmup_from: the first of them has `warmup_from / warmup` of the peak. 1: every step trains, as with torch's
            LinearLR from 1 / warmup; 0: the first has rate 0, as in transformers.
        weight_decay: of matrices; norms and biases, which are vectors, do not decay.
        b1, b2, eps: of Adam.
        clip: largest global norm of a gradient; None: any.
    """

    peak: float
    steps: int
    schedule: str = "cosine"
    warmup: int = 0
    warmup_from: int = 1
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float | None = 1.0

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The rate of a step, counted from 0. HF: transformers/optimization.py, get_cosine_schedule_with_warmup, but
        for `warmup_from`.

        With a peak of 1, 2 steps of warm-up and 6 in all, "linear" gives 0.5, 1, 1, 0.75, 0.5, 0.25.
        """
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        decayed = SCHEDULES[self.schedule](jnp.clip(share, 0.0, 1.0))
        rising = (step + self.warmup_from) / max(1, self.warmup)
        return self.peak * jnp.where(step < self.warmup, rising, decayed)

    def transform(self) -> optax.GradientTransformation:
        """The optax transformation: float32 moments in the structure of the parameters."""
        return optax.chain(
            optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, _matrices),
            optax.scale_by_learning_rate(self.learning_rate),
        )


def _matrices(params: dict[str, Array]) -> dict[str, bool]:
    return {name: value.ndim >= 2 for name, value in params.items()}
