"""The key/value cache: a ring of slots per layer, written and read by position.

A token at position p is written to slot `p % S` of its row. Nothing is ever cleared. Which position a slot holds is
*computed from the position q of the token that looks*: the latest one that could be there,

    p = q - ((q - s) mod S)          e.g. S = 4, q = 5:  slots 0 1 2 3 hold positions 4 5 2 3

and it is seen iff the layer's mask says so. Rolling back is therefore nothing but feeding lower positions again.

Why a stale slot is never seen. Let q be in a chunk of C tokens, at most R below the highest position ever fed to the
row (R: the deepest rollback). Every position <= q has been fed, the last time after any rollback past it, so a slot
holds something else than p as computed only if some p' = p + m*S, m >= 1, was written there since; p' <= q + R + C,
hence p <= q + R + C - S. With S >= W + R + C (W: the mask's reach) that gives q - p >= W: outside the mask. With
S >= the row's length there is no such p' at all. `slack` is R + C.

Layers whose tokens see all before them may keep their slots in a pool of pages instead (PagedAttention, arXiv
2309.06180): slot s of a row is then slot s % page of the page number table[row, s // page]. A row has as many pages as
it needs so far; the host deals them out (engine/pages.py), and what a page held before is as stale as after a rollback.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, DTypeLike, Float, Float32, Int, Real

from tessy_jax.models.attention import attention, to_a_cache
from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.key_values import AttentionInputs
from tessy_jax.models.mask import Full, Mask, RingMask
from tessy_jax.models.sharding import INFERENCE, Dim, Rules, sharding_for, ways_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """The ring of one layer, or its pool of pages.

    Attributes:
        k, v: [B, K, S, H]; S = mask.slots(length, slack). With heads before slots both products of attention read the
            cache as it lies (on CPU 2 to 3 times faster than [B, S, K, H], which was copied at every step). In pages a
            "row" of these arrays is a page, and S are the slots of a page.
            v is None where the keys are the values, and where both lie side by side (`joined`). On a mesh of more
            devices than heads, each head is there once for every device that looks at it, one copy behind the other:
            K times `copies` in all.
        k_scale, v_scale: what int8 keys and values are to be multiplied by; None: k and v are not int8.
        mask: what a token of this layer sees (static).
        paged: whether its slots lie in pages (static).
        joined: whether a token's key and value lie side by side in k (static): see `Pool`.
    """

    k: Real[Array, "R K S H"]
    v: Real[Array, "R K S H"] | None
    k_scale: Float32[Array, "R K S 1"] | None
    v_scale: Float32[Array, "R K S 1"] | None
    mask: Mask = field(metadata={"static": True})
    paged: bool = field(default=False, metadata={"static": True})
    joined: bool = field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers: a pytree, to be carried by `lax.while_loop` and donated. See the module's text.

    Attributes:
        layers: one ring per layer.
        length: rows may have positions 0 .. length - 1 (static). Longer rows would overwrite their beginning.
        sharding: of every k and v on a mesh (static); None: one device.
        rows: the cache's row of each row that is fed, see `of_rows`; None: all rows are.
        table: the pages of each row, in order, for all layers that have pages; None: no layer has. A number past the
            last page: no page. On a mesh each device counts the pages of its own part of the pool.
        writable: the same without the pages that are only read: others may have them too.
    """

    layers: list[LayerCache]
    length: int = field(metadata={"static": True})
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})
    rows: Int[Array, " A"] | None = None
    table: Int[Array, "B T"] | None = None
    writable: Int[Array, "B T"] | None = None

    @property
    def platform(self) -> str:
        """What it lies on: that of the mesh, which is not this process's where programs are compiled for a slice."""
        return jax.default_backend() if self.sharding is None else self.sharding.mesh.devices.flat[0].platform

    def of_rows(self, rows: Int[Array, " A"] | None) -> Self:
        """The same cache for passes that feed some of its rows only: nothing is copied. None: all of them again.

        On a mesh the rows of each device come in its own part of the list, as those of the batch do. Indices beyond
        the last row may fill it up: feed such rows padding.
        """
        return dataclasses.replace(self, rows=rows)

    def with_table(self, table: Int[Array, "B T"], writable: Int[Array, "B T"] | None = None) -> Self:
        """The same cache with other pages for its rows: nothing is moved. `writable`: see the class; None: all."""
        # Two arrays, not one twice: a donated buffer must not be shared.
        return dataclasses.replace(self, table=table, writable=jnp.copy(table) if writable is None else writable)

    @property
    def has_rings(self) -> bool:
        """Whether some layer keeps the last tokens of each row only, however they came to be read."""
        return not all(layer.paged for layer in self.layers)

    @property
    def pool(self) -> "Pool | None":
        """Of which sizes the pages are; None: no layer has pages."""
        return next((Pool(layer.k.shape[0], layer.k.shape[2]) for layer in self.layers if layer.paged), None)

    def room(self) -> Int[Array, " B"] | int:
        """Tokens of each row that there are slots for."""
        if self.pool is None or self.table is None:
            return self.length
        return self.pool.page * jnp.sum(self.table < self.pool.pages // self._ways, axis=1)

    @property
    def _ways(self) -> int:
        """Parts that rows are split into on the mesh."""
        if self.sharding is None or not (axes := self.sharding.spec[0]):
            return 1
        names = (axes,) if isinstance(axes, str) else axes
        return math.prod(self.sharding.mesh.shape[name] for name in names)

    def slots(self, layer: LayerCache) -> int:
        """Slots of a row in this layer."""
        return layer.k.shape[2] * (self.table.shape[1] if layer.paged and self.table is not None else 1)

    def in_use(self, layer: LayerCache, tokens: int, rows: int) -> float:
        """The share of this layer's slots that so many rows of so many tokens use; `rows` counts for pages alone."""
        if layer.paged and self.pool:
            return min(1.0, rows * self.pool.of(tokens) / self.pool.pages)
        return min(tokens, self.slots(layer)) / self.slots(layer)

    def attend(self, new: AttentionInputs) -> tuple[Float[Array, "B C NH"], Self]:
        """Write the chunk's keys and values, then look at the slots in use. Padding is not written.

        Raises:
            ValueError: the chunk is larger than the cache's slack.
        """
        if self.layers[new.layer].joined and new.v is not None:
            return self._attend_joined(new, new.v)
        self._check_room(new)
        ring = self._written(self.layers[new.layer], new)
        layers = [*self.layers[: new.layer], ring, *self.layers[new.layer + 1 :]]
        return self._look(ring, new), dataclasses.replace(self, layers=layers)

    def _attend_joined(self, new: AttentionInputs, v: Float[Array, "B C K H"]) -> tuple[Float[Array, "B C NH"], Self]:
        """A query filled up with zeros looks at key and value, and the second half of what it gets is the value's."""
        q = jnp.concatenate([new.q, jnp.zeros_like(new.q)], axis=-1)
        out, cache = self.attend(new._replace(q=q, k=jnp.concatenate([new.k, v], axis=-1), v=None))
        return out.reshape(q.shape)[..., v.shape[-1] :].reshape(*q.shape[:2], -1), cache

    def _look(self, ring: LayerCache, new: AttentionInputs) -> Float[Array, "B C NH"]:
        slots = self.slots(ring)

        def look(
            q: Array, ring: LayerCache, positions: Array, sinks: Array | None, rows: Array | None, table: Array | None
        ) -> Float[Array, "B C NH"]:
            v, v_scale = (ring.k, ring.k_scale) if ring.v is None else (ring.v, ring.v_scale)
            return attention(
                q,
                ring.k,
                v,
                RingMask(ring.mask, positions, slots),
                scale=new.scale,
                sinks=sinks,
                k_scale=ring.k_scale,
                v_scale=v_scale,
                heads_first=True,
                rows=None if rows is None or ring.paged else self._own(rows, ring.k.shape[0]),
                pages=self._pages(rows, table, ring.k.shape[0]) if ring.paged else None,
                platform=self.platform,
                implementation=to_a_cache(self.platform),
            )

        if self.sharding is None:
            return look(new.q, ring, new.positions, new.sinks, self.rows, self.table)
        # Each device looks at its own rows and heads, and reads no further than these rows go.
        rows, heads = self.sharding.spec[:2]
        tokens = PartitionSpec(rows, None, heads)
        own = PartitionSpec(rows)
        specs = (tokens, self.sharding.spec, own, PartitionSpec(heads), own, own)
        mesh = self.sharding.mesh
        # JAX cannot tell that the loop's zeros are not the same on all devices once it has run.
        split = jax.shard_map(look, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)
        return split(new.q, ring, new.positions, new.sinks, self.rows, self.table)

    def _pages(
        self, rows: Int[Array, " A"] | None, table: Int[Array, "_ T"] | None, none: int
    ) -> Int[Array, "_ T"] | None:
        """The pages of the rows that are fed, as this device counts its own; `none`: what stands for no page."""
        if rows is None or table is None:
            return table
        return table.at[self._own(rows, len(table))].get(mode="fill", fill_value=none)

    def _own(self, rows: Int[Array, " A"], size: int) -> Int[Array, " A"]:
        """The rows as this device counts its own, `size` in all; what it does not have becomes one past its last."""
        if self.sharding is not None and (axes := self.sharding.spec[0]):
            rows = rows - lax.axis_index(axes) * size
        return jnp.where((rows >= 0) & (rows < size), rows, size)

    def _check_room(self, new: AttentionInputs) -> None:
        ring, chunk = self.layers[new.layer], new.positions.shape[1]
        slots = self.slots(ring)
        room = slots - ring.mask.reach(self.length)
        if slots < self.length and chunk > room:
            raise ValueError(
                f"a chunk of {chunk} tokens does not fit the cache of layer {new.layer} "
                f"({ring.mask}, {slots} slots): feed at most {room} at a time, "
                "or call init_cache with slack >= chunk + deepest rollback."
            )

    def _written(self, old: LayerCache, new: AttentionInputs) -> LayerCache:
        """The ring with the new keys and values in it."""
        k, v, slots = new.k, new.v, self.slots(old)
        where = jnp.where(new.positions >= 0, new.positions % slots, slots)  # one past the end: dropped
        copies = old.k.shape[1] // k.shape[2]
        if copies > 1:
            k, v = jnp.repeat(k, copies, axis=2), None if v is None else jnp.repeat(v, copies, axis=2)
        table = self.writable if old.paged else None
        k, k_scale = self._put(old.k, old.k_scale, k, where, table)
        if old.v is None or v is None:
            return dataclasses.replace(old, k=k, k_scale=k_scale)
        v, v_scale = self._put(old.v, old.v_scale, v, where, table)
        return dataclasses.replace(old, k=k, v=v, k_scale=k_scale, v_scale=v_scale)

    def _put(
        self,
        ring: Real[Array, "R K S H"],
        scales: Float32[Array, "R K S 1"] | None,
        new: Float[Array, "B C K H"],
        where: Int[Array, "B C"],
        table: Int[Array, "_ T"] | None,
    ) -> tuple[Real[Array, "R K S H"], Float32[Array, "R K S 1"] | None]:
        """The ring and the scales with the new vectors in them, each with a scale of its own where the ring is int8."""
        if scales is None:
            return self._write(ring, new, where, table), None
        new = new.astype(jnp.float32)
        top = jnp.max(jnp.abs(new), axis=-1, keepdims=True) / 127
        scale = jnp.where(top > 0, top, 1)
        rounded = self._write(ring, jnp.round(new / scale), where, table)
        return rounded, self._write(scales, scale, where, table)

    def _write(
        self,
        ring: Real[Array, "R K S H"],
        new: Real[Array, "B C K H"],
        where: Int[Array, "B C"],
        table: Int[Array, "_ T"] | None,
    ) -> Real[Array, "R K S H"]:
        """The array with new vectors in the slots `where` of their rows, in the pages of `table` where there is one."""

        def write(ring: Array, new: Array, where: Array, rows: Array | None, table: Array | None) -> Array:
            size, page = ring.shape[0], ring.shape[2]
            heads = jnp.arange(new.shape[2])  # spelled out: for a slice the CPU compiler transposes the whole ring
            pages = self._pages(rows, table, size)
            if pages is None:
                at = (jnp.arange(len(new)) if rows is None else self._own(rows, size))[:, None]
            else:
                at = jnp.take_along_axis(pages, where // page, axis=1, mode="fill", fill_value=size)
                where = where % page
            return ring.at[at[:, :, None], heads, where[:, :, None]].set(new, mode="drop")

        new = new.astype(ring.dtype)
        if self.sharding is None:
            return write(ring, new, where, self.rows, table)
        # Each device writes its own rows and heads. Left to itself, the compiler gathers the new tokens on all of them.
        rows, heads = self.sharding.spec[:2]
        own = PartitionSpec(rows)
        specs = (self.sharding.spec, PartitionSpec(rows, None, heads), own, own, own)
        split = jax.shard_map(write, mesh=self.sharding.mesh, in_specs=specs, out_specs=self.sharding.spec)
        return split(ring, new, where, self.rows, table)


@dataclass(frozen=True)
class Pool:
    """Of which sizes the pages of a cache are.

    Attributes:
        pages: how many there are; on a mesh, on all devices together.
        page: slots of a page.
        lanes: numbers that the kernels of a platform read side by side; 0: any. Keys and values of heads half as wide
            lie side by side, or every page would be copied into a wider one at every step.
    """

    pages: int
    page: int
    lanes: int = 0

    def of(self, tokens: int) -> int:
        """Pages of a row of so many tokens."""
        return -(-tokens // self.page)


def init_cache(
    config: DecoderConfig,
    batch: int,
    length: int,
    slack: int,
    dtype: DTypeLike = jnp.float32,
    *,
    mask: Mask | None = None,
    pool: Pool | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    rules: Rules = INFERENCE,
) -> Cache:
    """An empty cache for `batch` rows of at most `length` tokens.

    Args:
        slack: deepest rollback + largest chunk, in tokens. Layers with a window or blocks keep that many extra slots.
        dtype: of keys and values; normally that of the parameters. int8: each with a scale of its own, half the bytes.
        mask: replaces the mask of every layer (`Blocks(128)` for a boundary predictor); None: the model's own.
        pool: pages for the layers whose tokens see all before them; no row has any yet. None: each row has its slots.
        mesh, rules: rows are split over "batch", heads over "kv_heads", in copies where there are more devices; None:
            one device.

    Raises:
        ModelConfigError: a token would see more than `max_position_embeddings` tokens.
        ShardingError: `batch`, or the pool's pages, do not divide over the mesh.
    """
    masks: Sequence[Mask] = config.masks if mask is None else (mask,) * config.num_hidden_layers
    farthest = max(each.reach(length) for each in masks)
    if farthest > config.max_position_embeddings:
        raise ModelConfigError(
            f"a context of {farthest} tokens was asked of a model with max_position_embeddings "
            f"{config.max_position_embeddings} (config.json): ask for less, or set the model's RoPE scaling and limit."
        )

    spec, sharding = config.cache_spec, None
    heads = spec.heads
    if mesh is not None:
        ways = ways_of(mesh, rules, heads)
        if ways % heads.size == 0:  # Qwen3-235B has 4; whole on each of 8 chips they would take 4 times the memory
            heads = dataclasses.replace(heads, size=ways)
        dims = (heads, Dim(1), Dim(1))
        sharding = sharding_for(mesh, rules, (Dim(batch, "batch"), *dims), "cache")
        if pool is not None:  # the same, or an error
            sharding = sharding_for(mesh, rules, (Dim(pool.pages, "batch"), *dims), "pages")

    def layer(mask: Mask) -> LayerCache:
        paged = pool is not None and isinstance(mask, Full)
        lanes = pool.lanes if pool and paged else 0
        joined = 2 * spec.size == lanes and spec.values and jnp.dtype(dtype) != jnp.int8

        def zeros(size: int, dtype: DTypeLike) -> Array:
            rows, slots = (pool.pages, pool.page) if pool and paged else (batch, mask.slots(length, slack))
            return jnp.zeros((rows, heads.size, slots, size), dtype, device=sharding)

        def ring(there: bool) -> tuple[Array | None, Array | None]:
            scaled = there and jnp.dtype(dtype) == jnp.int8
            size = 2 * spec.size if joined else spec.size
            return zeros(size, dtype) if there else None, zeros(1, jnp.float32) if scaled else None

        # Keys and values are two arrays, not one twice: a donated buffer must not be shared.
        (k, k_scale), (v, v_scale) = ring(True), ring(spec.values and not joined)
        assert k is not None
        return LayerCache(k, v, k_scale, v_scale, mask, paged, joined)

    cache = Cache([layer(mask) for mask in masks], length, sharding)
    if pool is None or not any(layer.paged for layer in cache.layers):
        return cache
    placed = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return cache.with_table(jnp.full((batch, pool.of(length)), pool.pages, jnp.int32, device=placed))
