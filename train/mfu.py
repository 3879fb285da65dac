"""Model FLOPs utilisation (PaLM, arXiv 2204.02311, App. B): needed operations per second by what devices can do."""

import math
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int

from tessy_jax.models import DecoderConfig, describe

PEAK_TFLOPS = {
    "NVIDIA A100": 312,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
}
"""Dense bfloat16 peak of a device, in 1e12 operations per second, by how its `device_kind` begins; from data sheets."""


@dataclass(frozen=True)
class Arithmetic:
    """Operations that a training step of this model needs; what it computes again, or for padding, does not count.

    - 6 for each token and parameter of a matrix product (Kaplan et al., arXiv 2001.08361, §2.1): 2 forward, 4 backward.
      4 in all where parameters are frozen, as under LoRA. Tied embeddings count once, as the output matrix, and experts
      by the share of them that a token goes to.
    - 12 x heads x key size for each token and each token that it attends to, in each layer.

    Attributes:
        model: its shapes.
        frozen: whether its parameters are frozen.
    """

    model: DecoderConfig
    frozen: bool = False

    def operations(self, positions: Int[np.ndarray, "A B T"]) -> float:
        """Operations of one batch.

        Args:
            positions: of its tokens in their documents; -1: padding.
        """
        seen = positions[positions >= 0].astype(np.int64) + 1
        pairs = sum(np.minimum(seen, c.reach(positions.shape[-1])).sum() for c in self.model.masks)
        per_pair = 12 * self.model.num_attention_heads * self.model.cache_spec.size
        return float((4 if self.frozen else 6) * self._matrices() * seen.size + per_pair * pairs)

    def formula(self, peak: float) -> str:
        """How the MFU is computed, in words; `peak` is in operations per second."""
        return (
            f"MFU = ({4 if self.frozen else 6} x {self._matrices():,} parameters x tokens "
            f"+ 12 x {self.model.num_attention_heads} heads x {self.model.cache_spec.size} x pairs seen in all layers) "
            f"/ (seconds x devices x {peak / 1e12:g} TFLOP/s)"
        )

    def _matrices(self) -> int:
        """Parameters that one token is multiplied with."""
        specs = describe(self.model).items()
        found = {name: spec for name, spec in specs if len(spec.shape) > 1 + (spec.axes[0] == "experts")}
        if not self.model.tie_word_embeddings:
            del found["model.embed_tokens.weight"]
        experts = sum(math.prod(spec.shape) for spec in found.values() if spec.axes[0] == "experts")
        every = sum(math.prod(spec.shape) for spec in found.values())
        return round(every - experts * (1 - self.model.expert_share))


def peak_of(device: jax.Device, dtype: str, told: float | None) -> float | None:
    """Operations per second that a device can do at most; None: unknown.

    Args:
        device: it is looked up in `PEAK_TFLOPS`, which holds for bfloat16.
        dtype: of the computation.
        told: the user's own number, in 1e12 operations per second; it counts where it is given.
    """
    if told is not None:
        return told * 1e12
    known = [name for name in PEAK_TFLOPS if device.device_kind.startswith(name)]
    return PEAK_TFLOPS[max(known, key=len)] * 1e12 if known and dtype == "bfloat16" else None
