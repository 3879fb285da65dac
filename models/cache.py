"""Key/value memory: a ring of slots per layer, written and read by position.

A token at position p is written to slot `p % S` of its row. Nothing is ever cleared. Which position a slot holds is
*computed from the position q of the token that looks*: the latest one that could be there,

    p = q - ((q - s) mod S)          e.g. S = 4, q = 5:  slots 0 1 2 3 hold positions 4 5 2 3

and it is seen iff the layer's context says so. Rolling back is therefore nothing but feeding lower positions again.

Why a stale slot is never seen. Let q be in a chunk of C tokens, at most R below the highest position ever fed to the
row (R: the deepest rollback). Every position <= q has been fed, the last time after any rollback past it, so a slot
holds something else than p as computed only if some p' = p + m*S, m >= 1, was written there since; p' <= q + R + C,
hence p <= q + R + C - S. With S >= W + R + C (W: the context's reach) that gives q - p >= W: outside the context. With
S >= the row's length there is no such p' at all. `slack` is R + C.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, DTypeLike, Float, Float32, Int

from tessy_jax.models.attention import blockwise, dense
from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.mask import Mask
from tessy_jax.models.sharding import INFERENCE, Dim, Rules, sharding_for, ways_of


class Memory(Protocol):
    """What attention looks at: given a layer's new queries, keys and values, it shows the queries what they may see.

    Without values (None) the keys are the values: DeepSeek's latents, of which a layer remembers one array.
    """

    def attend(
        self,
        layer: int,
        q: Float[Array, "B C N H"],
        k: Float[Array, "B C K H"],
        v: Float[Array, "B C K H"] | None,
        positions: Int[Array, "B C"],
        scale: float,
        sinks: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "B C N*H"], Self]:
        """(what each new token gets, the memory afterwards). `sinks`: a logit per head, see attention.py."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """The ring of one layer.

    Attributes:
        k, v: [B, K, S, H]; S = context.slots(length, slack). With heads before slots both products of attention read
            the cache as it lies (on CPU 2 to 3 times faster than [B, S, K, H], which was copied at every step).
            v is None where the keys are the values. On a mesh of more devices than heads, each head is there once for
            every device that looks at it, one copy behind the other: K times `copies` in all.
        k_scale, v_scale: what int8 keys and values are to be multiplied by; None: k and v are not int8.
        context: what a token of this layer sees (static).
    """

    k: Float[Array, "B K S H"]
    v: Float[Array, "B K S H"] | None
    k_scale: Float32[Array, "B K S 1"] | None
    v_scale: Float32[Array, "B K S 1"] | None
    context: Mask = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers: a pytree, to be carried by `lax.while_loop` and donated. See the module's text.

    Attributes:
        layers: one ring per layer.
        length: rows may have positions 0 .. length - 1 (static). Longer rows would overwrite their beginning.
        sharding: of every k and v on a mesh (static); None: one device.
    """

    layers: list[LayerCache]
    length: int = field(metadata={"static": True})
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})

    def attend(
        self,
        layer: int,
        q: Float[Array, "B C N H"],
        k: Float[Array, "B C K H"],
        v: Float[Array, "B C K H"] | None,
        positions: Int[Array, "B C"],
        scale: float,
        sinks: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "B C N*H"], Self]:
        """Write the chunk's keys and values, then look at all slots. Padding is not written."""
        old = self.layers[layer]
        slots = old.k.shape[2]
        room = slots - old.context.reach(self.length)
        if slots < self.length and positions.shape[1] > room:
            raise ValueError(
                f"a chunk of {positions.shape[1]} tokens does not fit the cache of layer {layer} "
                f"({old.context}, {slots} slots): feed at most {room} at a time, "
                "or call init_cache with slack >= chunk + deepest rollback."
            )
        where = jnp.where(positions >= 0, positions % slots, slots)  # one past the end: dropped
        copies = old.k.shape[1] // k.shape[2]
        if copies > 1:
            k, v = jnp.repeat(k, copies, axis=2), None if v is None else jnp.repeat(v, copies, axis=2)
        keys = values = self._remember(old.k, old.k_scale, k, where)
        new = LayerCache(keys[0], None, keys[1], None, old.context)
        if old.v is not None and v is not None:
            values = self._remember(old.v, old.v_scale, v, where)
            new = LayerCache(keys[0], values[0], keys[1], values[1], old.context)
        looking = positions[:, :, None]
        held = looking - (looking - jnp.arange(slots)) % slots
        visible = old.context.visible(looking, held)
        out = dense(q, keys[0], values[0], visible, scale, sinks, keys[1], values[1])
        layers = [*self.layers[:layer], new, *self.layers[layer + 1 :]]
        return out, dataclasses.replace(self, layers=layers)

    def _remember(
        self,
        ring: Float[Array, "B K S H"],
        scales: Float32[Array, "B K S 1"] | None,
        new: Float[Array, "B C K H"],
        where: Int[Array, "B C"],
    ) -> tuple[Float[Array, "B K S H"], Float32[Array, "B K S 1"] | None]:
        """The ring and the scales with the new vectors in them, each with a scale of its own where the ring is int8."""
        if scales is None:
            return self._write(ring, new, where), None
        new = new.astype(jnp.float32)
        top = jnp.max(jnp.abs(new), axis=-1, keepdims=True) / 127
        scale = jnp.where(top > 0, top, 1)
        return self._write(ring, jnp.round(new / scale), where), self._write(scales, scale, where)

    def _write(
        self, ring: Float[Array, "B K S H"], new: Float[Array, "B C K H"], where: Int[Array, "B C"]
    ) -> Float[Array, "B K S H"]:
        new = new.astype(ring.dtype)
        if self.sharding is None:
            return _scatter(ring, new, where)
        # Each device writes its own rows and heads. Left to itself, the compiler gathers the new tokens on all of them.
        rows, heads = self.sharding.spec[:2]
        specs = (self.sharding.spec, PartitionSpec(rows, None, heads), PartitionSpec(rows))
        write = jax.shard_map(_scatter, mesh=self.sharding.mesh, in_specs=specs, out_specs=self.sharding.spec)
        return write(ring, new, where)


def _scatter(
    ring: Float[Array, "B K S H"], new: Float[Array, "B C K H"], where: Int[Array, "B C"]
) -> Float[Array, "B K S H"]:
    rows = jnp.arange(new.shape[0])[:, None, None]
    heads = jnp.arange(new.shape[2])  # spelled out: with a slice here the CPU compiler transposes the whole ring
    return ring.at[rows, heads, where[:, :, None]].set(new, mode="drop")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """No memory: the chunk itself is the whole text. For training on rows that hold several documents.

    Attributes:
        segments: [B, C] document number of each token; tokens see their own document only. Positions restart in each.
        contexts: one per layer (static): `config.contexts`.
        attention: "dense" holds all [C, C] scores of a layer; "blocks" never does, forward or backward (static).
        block: tokens per block of "blocks" (static); None: what suits this machine.
    """

    segments: Int[Array, "B C"]
    contexts: tuple[Mask, ...] = field(metadata={"static": True})
    attention: Literal["dense", "blocks"] = field(default="dense", metadata={"static": True})
    block: int | None = field(default=None, metadata={"static": True})

    def attend(
        self,
        layer: int,
        q: Float[Array, "B C N H"],
        k: Float[Array, "B C K H"],
        v: Float[Array, "B C K H"] | None,
        positions: Int[Array, "B C"],
        scale: float,
        sinks: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "B C N*H"], Self]:
        """Look at the chunk's own keys and values, within a document."""
        context = self.contexts[layer]
        v = k if v is None else v
        if self.attention == "blocks":
            return blockwise(q, k, v, self.segments, positions, context, scale, self.block, sinks), self
        same = self.segments[:, :, None] == self.segments[:, None, :]
        visible = same & context.visible(positions[:, :, None], positions[:, None, :])
        return dense(q, k.swapaxes(1, 2), v.swapaxes(1, 2), visible, scale, sinks), self


def init_cache(
    config: DecoderConfig,
    batch: int,
    length: int,
    slack: int,
    dtype: DTypeLike = jnp.float32,
    *,
    context: Mask | None = None,
    mesh: Mesh | None = None,
    rules: Rules = INFERENCE,
) -> Cache:
    """An empty cache for `batch` rows of at most `length` tokens.

    Args:
        slack: deepest rollback + largest chunk, in tokens. Layers with a window or blocks keep that many extra slots.
        dtype: of keys and values; normally that of the parameters. int8: each with a scale of its own, half the bytes.
        context: replaces the context of every layer (`Blocks(128)` for a boundary predictor); None: the model's own.
        mesh, rules: rows are split over "batch", heads over "kv_heads", in copies where there are more devices; None:
            one device.

    Raises:
        ConfigError: a token would see more than `max_position_embeddings` tokens.
        ShardingError: `batch` does not divide over the mesh.
    """
    contexts: Sequence[Mask] = config.contexts if context is None else (context,) * config.num_hidden_layers
    farthest = max(c.reach(length) for c in contexts)
    if farthest > config.max_position_embeddings:
        raise ModelConfigError(
            f"a context of {farthest} tokens was asked of a model with max_position_embeddings "
            f"{config.max_position_embeddings} (config.json): ask for less, or set the model's RoPE scaling and limit."
        )

    remembered, sharding = config.remembered, None
    heads = remembered.heads
    if mesh is not None:
        ways = ways_of(mesh, rules, heads)
        if ways % heads.size == 0:  # Qwen3-235B has 4; whole on each of 8 chips they would take 4 times the memory
            heads = dataclasses.replace(heads, size=ways)
        dims = (Dim(batch, "batch"), heads, Dim(1), Dim(remembered.size))
        sharding = sharding_for(mesh, rules, dims, "cache")

    def layer(context: Mask) -> LayerCache:
        def zeros(size: int, dtype: DTypeLike) -> Array:
            shape = (batch, heads.size, context.slots(length, slack), size)
            return jnp.zeros(shape, dtype, device=sharding)

        def ring(there: bool) -> tuple[Array | None, Array | None]:
            scaled = there and jnp.dtype(dtype) == jnp.int8
            return zeros(remembered.size, dtype) if there else None, zeros(1, jnp.float32) if scaled else None

        # Keys and values are two arrays, not one twice: a donated buffer must not be shared.
        (k, k_scale), (v, v_scale) = ring(True), ring(remembered.values)
        assert k is not None
        return LayerCache(k, v, k_scale, v_scale, context)

    return Cache([layer(context) for context in contexts], length, sharding)
