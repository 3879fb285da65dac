"""Microscaling: small numbers in groups of 32 that share a power of two (OCP MX v1.0, §5).

MXFP4 is how GPT-OSS's experts are released. MXINT8 can be made of them while loading, or of floats: twice the memory,
and about half of the time for a product, where opening the matrix counts (docs/scale.md). It holds every value of
MXFP4 exactly, so nothing else changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Float32, Int8, Int32, Shaped, UInt8

from tessy_jax.models.grouped import Product
from tessy_jax.models.layers import DerivedFrom, Expected, parameter
from tessy_jax.models.products import matmul
from tessy_jax.models.sharding import Dim

GROUP = 32
"""Values that share a scale: neighbours in the dimension that a product sums over."""


class Format(Protocol):
    """How one matrix per expert is packed: blocks `[E, C, O]`, C numbers or pairs of them, and scales `[E, G, O]`.

    Checkpoints have [E, O, G, b] and [E, O, G]; in memory, that costs a TPU a copy of all matrices in another layout.
    """

    def matrices(self, name: str, experts: Dim, outside: Dim, inside: Dim) -> tuple[nnx.Param, nnx.Param]:
        """New blocks and scales of what HF calls `name`, split between groups."""
        ...

    def opened(self, blocks: Shaped[Array, "C O"], scales: UInt8[Array, "G O"], dtype: DTypeLike) -> Product:
        """The product of rows of `dtype` with one matrix, whose values are decoded here. A scale byte of 0 (2^-127,
        less than any normal float32) counts as zero.
        """
        ...


@dataclass(frozen=True)
class Mxfp4:
    """Two values in a byte, the earlier one in its low half: 0, 0.5, 1, 1.5, 2, 3, 4 or 6 (e2m1: a sign, two exponent
    bits and a mantissa bit), times 2^(s - 127), where s is its group's byte. All are exact in bfloat16.
    """

    def matrices(self, name: str, experts: Dim, outside: Dim, inside: Dim) -> tuple[nnx.Param, nnx.Param]:
        groups = Dim(inside.size // GROUP, inside.axis)
        shape = (experts.size, outside.size, groups.size)
        stored = Turned(f"{name}_blocks", (*shape, GROUP // 2)), Turned(f"{name}_scales", shape)
        blocks = parameter(experts, _columns(groups, GROUP // 2), outside, dtype=jnp.uint8, derived_from=stored[0])
        # Random bytes have a root mean square of 2.9, which 2^-7 makes about 0.02.
        scales = parameter(experts, groups, outside, fill=120, dtype=jnp.uint8, derived_from=stored[1])
        return blocks, scales

    def opened(self, blocks: UInt8[Array, "C O"], scales: UInt8[Array, "G O"], dtype: DTypeLike) -> Product:
        code, powers = blocks.astype(jnp.int32), _powers(scales, GROUP // 2, dtype)
        halves = [(_doubled(half) / 2).astype(dtype) * powers for half in (code & 15, code >> 4)]

        def product(rows: Float[Array, "P I"]) -> Float[Array, "P O"]:
            # Halves multiply every other column: laying their values side by side takes a TPU longer than the product.
            return (_sum(rows[:, 0::2], halves[0]) + _sum(rows[:, 1::2], halves[1])).astype(dtype)

        return product


@dataclass(frozen=True)
class Mxint8:
    """A value is an int8 n: n / 64 times 2^(s - 127), exact in bfloat16. Made while loading from what a checkpoint has.

    Attributes:
        packed: the checkpoint has MXFP4; False: floats, `[E, in, out]`.
    """

    packed: bool

    def matrices(self, name: str, experts: Dim, outside: Dim, inside: Dim) -> tuple[nnx.Param, nnx.Param]:
        groups = Dim(inside.size // GROUP, inside.axis)
        shape = (experts.size, outside.size, groups.size)
        source: tuple[DerivedFrom, DerivedFrom] = (RoundedBlocks(name, shape), RoundedScales(name, shape))
        if self.packed:
            packed = (*shape, GROUP // 2)
            source = (UnpackedBlocks(f"{name}_blocks", packed), UnpackedScales(f"{name}_scales", shape))
        blocks = parameter(experts, _columns(groups, GROUP), outside, dtype=jnp.int8, derived_from=source[0])
        # Random bytes have a standard deviation of 74, which 2^-6 / 64 makes about 0.02.
        return blocks, parameter(experts, groups, outside, fill=121, dtype=jnp.uint8, derived_from=source[1])

    def opened(self, blocks: Int8[Array, "C O"], scales: UInt8[Array, "G O"], dtype: DTypeLike) -> Product:
        values = (blocks.astype(jnp.float32) / 64).astype(dtype) * _powers(scales, GROUP, dtype)
        return lambda rows: _sum(rows, values).astype(dtype)


def _doubled(code: Int32[Array, "C O"]) -> Float32[Array, "C O"]:
    """Twice the value of 4 bits: 0, 1, 2, 3, 4, 6, 8 or 12."""
    size = code & 7
    twice = size + jnp.maximum(size - 4, 0) + ((size + 1) >> 2 & 2)  # a TPU spends longer on comparing and choosing
    return (twice * (1 - (code >> 2 & 2))).astype(jnp.float32)


def _powers(scales: UInt8[Array, "G O"], size: int, dtype: DTypeLike) -> Float[Array, "C O"]:
    """The scale of each of `size` columns of a group."""
    power = lax.bitcast_convert_type(scales.astype(jnp.uint32) << 23, jnp.float32)  # s is the exponent's own bits
    # An exact product, as it has one term each: a TPU is faster at it than at spreading values (13,000 cycles by its
    # compiler's estimate, and 171,000, for one matrix of GPT-OSS-120B).
    return matmul(jnp.repeat(jnp.eye(len(scales), dtype=dtype), size, axis=0), power.astype(dtype))


def _sum(rows: Float[Array, "P C"], values: Float[Array, "C O"]) -> Float32[Array, "P O"]:
    return matmul(rows, values, preferred_element_type=jnp.float32)


def _columns(groups: Dim, size: int) -> Dim:
    return Dim(groups.size * size, groups.axis, unit=size)


# -- from a checkpoint -------------------------------------------------------------------------------------------------

_DOUBLED = np.array(
    [[(-1 if half >= 8 else 1) * (0, 1, 2, 3, 4, 6, 8, 12)[half % 8] for half in (byte % 16, byte // 16)]
     for byte in range(256)], np.int8,
)  # fmt: skip
"""Byte of MXFP4 -> its two values, doubled: integers."""


@dataclass(frozen=True)
class _Packed:
    """What is read from blocks or scales of MXFP4, stored as `name` of shape `[E, O, G, …]`."""

    name: str
    shape: tuple[int, ...]

    @property
    def tensors(self) -> dict[str, Expected]:
        return {self.name: Expected(self.shape, jnp.uint8)}

    @property
    def by_rows(self) -> bool:
        return True


class Turned(_Packed):
    """The same bytes."""

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        experts, columns, outside = index
        return tensors[0].reshape(len(tensors[0]), self.shape[1], -1)[experts, outside, columns].swapaxes(1, 2)

    def back(self, value: np.ndarray) -> np.ndarray:
        return value.swapaxes(1, 2).reshape(self.shape)


class UnpackedBlocks(_Packed):
    """Blocks of MXINT8 from those of MXFP4: the same numbers."""

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        experts, columns, outside = index
        found = _DOUBLED[tensors[0][experts, outside, _groups(columns, self.shape[2])]]
        return found.reshape(*found.shape[:2], -1).swapaxes(1, 2)


class UnpackedScales(_Packed):
    """Their scales: n / 64 * 2^(s + 5 - 127) is n / 2 * 2^(s - 127). What counts as zero stays zero."""

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        found = Turned(self.name, self.shape)(tensors, index)
        return np.where(found > 0, np.minimum(found, 250) + np.uint8(5), np.uint8(0))


@dataclass(frozen=True)
class RoundedScales:
    """Scales of MXINT8 from floats `[E, I, O]`: a group's largest number is 64 to 127. `shape` is [E, O, G]."""

    name: str
    shape: tuple[int, ...]

    @property
    def tensors(self) -> dict[str, Expected]:
        experts, outside, groups = self.shape
        return {self.name: Expected((experts, groups * GROUP, outside))}

    @property
    def by_rows(self) -> bool:
        return True

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        return self._values(tensors, index[0], index[1], index[2])[1]

    def _values(
        self, tensors: Sequence[np.ndarray], experts: slice, groups: slice, outside: slice
    ) -> tuple[Float32[np.ndarray, "E G 32 O"], UInt8[np.ndarray, "E G O"]]:
        first, last, _ = groups.indices(self.shape[2])
        found = tensors[0][experts, first * GROUP : last * GROUP, outside].astype(np.float32)
        values = found.reshape(len(found), last - first, GROUP, -1)
        _, exponent = np.frexp(np.abs(values).max(axis=2))  # the largest is from half of 2^exponent to below it
        return values, np.clip(exponent + 126, 0, 254).astype(np.uint8)


class RoundedBlocks(RoundedScales):
    """Their blocks."""

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        values, scales = self._values(tensors, index[0], _groups(index[1], self.shape[2]), index[2])
        numbers = np.rint(np.ldexp(values, 133 - scales[:, :, None].astype(np.int32)))
        return np.clip(numbers, -127, 127).astype(np.int8).reshape(len(values), -1, values.shape[3])


def _groups(columns: slice, groups: int) -> slice:
    """The groups of some columns: sharding never cuts one."""
    first, last, _ = columns.indices(groups * GROUP)
    return slice(first // GROUP, last // GROUP)
