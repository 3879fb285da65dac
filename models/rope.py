"""Rotary position embedding in the half-split form (element i pairs with i + H/2), as all HF models here use.

Angles come from positions at each call, in float32: no table whose size depends on the context.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int


@dataclass(frozen=True)
class Unscaled:
    """HF rope_type "default"."""

    def apply(self, frequencies: np.ndarray) -> np.ndarray:
        return frequencies


@dataclass(frozen=True)
class Linear:
    """HF rope_type "linear": all frequencies divided by `factor` (Gemma 3 4b and larger, full-attention layers)."""

    factor: float

    def apply(self, frequencies: np.ndarray) -> np.ndarray:
        return frequencies / np.float32(self.factor)


@dataclass(frozen=True)
class Llama3:
    """HF rope_type "llama3": long wavelengths stretched by `factor`, short ones kept, a blend between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def apply(self, frequencies: np.ndarray) -> np.ndarray:
        turns = self.original_max_position_embeddings * frequencies / np.float32(2 * np.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0, 1).astype(np.float32)
        return (1 - kept) * frequencies / np.float32(self.factor) + kept * frequencies


Scaling = Unscaled | Linear | Llama3
Rotation = tuple[Float[Array, "B C 1 H"], Float[Array, "B C 1 H"]]


@dataclass(frozen=True)
class Rope:
    """Base `theta` and how its frequencies are scaled. Hashable: layers with equal ropes share one rotation."""

    theta: float
    scaling: Scaling = Unscaled()

    def frequencies(self, head_dim: int) -> np.ndarray:
        """[H/2] radians per position, float32."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        return self.scaling.apply(np.float32(1) / np.float32(self.theta) ** exponents).astype(np.float32)

    def rotation(self, positions: Int[Array, "B C"], head_dim: int, dtype: DTypeLike) -> Rotation:
        """(cos, sin) of the angles at these positions, computed in float32 and rounded to `dtype` as HF does."""
        angles = positions[:, :, None, None].astype(jnp.float32) * self.frequencies(head_dim)
        angles = jnp.concatenate([angles, angles], axis=-1)
        return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(x: Float[Array, "B C N H"], rotation: Rotation) -> Float[Array, "B C N H"]:
    """Queries or keys, turned by the angle of their position."""
    cos, sin = rotation
    left, right = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-right, left], axis=-1) * sin
