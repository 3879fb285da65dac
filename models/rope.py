"""Rotary position embedding in the half-split form (element i pairs with i + H/2), as most HF models use.

Angles come from positions at each call, in float32: no table whose size depends on the context.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int


@dataclass(frozen=True)
class Scaling:
    """How the frequencies of a RoPE are changed for longer texts; and `amplitude`, a factor of cosines and sines.

    Attributes:
        rope_type: HF's name of it.
    """

    rope_type: ClassVar[str]

    def apply(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """[H/2] float32 radians per position, scaled; `theta` is the base they were made from."""
        raise NotImplementedError

    @property
    def amplitude(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Unscaled(Scaling):
    """HF rope_type "default"."""

    rope_type = "default"

    def apply(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        return frequencies


@dataclass(frozen=True)
class LinearScaling(Scaling):
    """HF rope_type "linear": all frequencies divided by `factor` (Gemma 3 4b and larger, full-attention layers)."""

    factor: float

    rope_type = "linear"

    def apply(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        return frequencies / np.float32(self.factor)


@dataclass(frozen=True)
class Llama3(Scaling):
    """HF rope_type "llama3": long wavelengths stretched by `factor`, short ones kept, a blend between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    rope_type = "llama3"

    def apply(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        turns = self.original_max_position_embeddings * frequencies / np.float32(2 * np.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0, 1).astype(np.float32)
        return (1 - kept) * frequencies / np.float32(self.factor) + kept * frequencies


@dataclass(frozen=True)
class Yarn(Scaling):
    """HF rope_type "yarn" (arXiv 2309.00071, NTK by parts): GPT-OSS, DeepSeek, long Qwen.

    Frequencies that turn more than `beta_fast` times in the original context are kept, those that turn less than
    `beta_slow` times are divided by `factor`, with a ramp over their numbers between. `truncate` rounds the ramp's ends
    outwards. `attention_factor` is the amplitude; None: from `mscale` and `mscale_all_dim` where given, or `factor`.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    rope_type = "yarn"

    def apply(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        count = len(frequencies)

        def number(turns: float) -> float:
            """Of the frequency that turns so often in the original context."""
            period = self.original_max_position_embeddings / (turns * 2 * math.pi)
            return count * math.log(period) / math.log(theta)

        low, high = number(self.beta_fast), number(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * count - 1)
        if low == high:
            high += 0.001  # HF: no division by zero
        slow = np.clip((np.arange(count, dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
        return frequencies / np.float32(self.factor) * slow + frequencies * (1 - slow)

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim)
        return yarn_mscale(self.factor, 1.0)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's correction of the attention's temperature (DeepSeek also puts its square on the scores' scale)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


Rotation = tuple[Float[Array, "B C 1 H"], Float[Array, "B C 1 H"]]


@dataclass(frozen=True)
class Rope:
    """Base `theta` and how its frequencies are scaled. Hashable: layers with equal ropes share one rotation."""

    theta: float
    scaling: Scaling = Unscaled()

    def frequencies(self, head_dim: int) -> np.ndarray:
        """[H/2] radians per position, float32."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = np.float32(1) / np.float32(self.theta) ** exponents
        return self.scaling.apply(frequencies, self.theta).astype(np.float32)

    def rotation(self, positions: Int[Array, "B C"], head_dim: int, dtype: DTypeLike) -> Rotation:
        """(cos, sin) of the angles at these positions, computed in float32 and rounded to `dtype` as HF does."""
        angles = positions[:, :, None, None].astype(jnp.float32) * self.frequencies(head_dim)
        angles = jnp.concatenate([angles, angles], axis=-1)
        amplitude = self.scaling.amplitude
        return (jnp.cos(angles) * amplitude).astype(dtype), (jnp.sin(angles) * amplitude).astype(dtype)


def rotate(x: Float[Array, "B C N H"], rotation: Rotation) -> Float[Array, "B C N H"]:
    """Queries or keys, turned by the angle of their position."""
    cos, sin = rotation
    left, right = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-right, left], axis=-1) * sin


def deinterleave(x: Float[Array, "*L H"]) -> Float[Array, "*L H"]:
    """Heads whose element 2i pairs with 2i + 1 (DeepSeek), in the order that `rotate` expects: even elements, odd ones.

    Queries and keys both change order, so their products do not.
    """
    return jnp.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
