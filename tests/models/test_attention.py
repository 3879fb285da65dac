"""Implementations of attention against each other and the reference: values, gradients, what is held in memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tessy_jax import models
from tessy_jax.models.attention import attention, reference, to_a_cache
from tessy_jax.models.mask import Mask, PackedMask, RingMask

B, T, N, K, H = 2, 53, 6, 2, 5
SCALE = 0.3
SINKS = jnp.asarray([-2.0, 0.5, 3.0, 1.0, -0.5, 5.0])
# Documents of each row; what is left at its end is padding.
DOCUMENTS = ((20, 9, 24), (1, 31, 13))
MASKS = (models.Full(), models.Sliding(11), models.Blocks(7))
OF_PACKED_ROWS = ("dense", "blocks")


def _packed() -> tuple[jax.Array, jax.Array]:
    """Segments and positions of the two rows."""
    segments, positions = np.zeros((B, T), np.int32), np.full((B, T), -1, np.int32)
    for row, lengths in enumerate(DOCUMENTS):
        at = 0
        for number, length in enumerate(lengths, start=1):
            segments[row, at : at + length] = number
            positions[row, at : at + length] = np.arange(length)
            at += length
    return jnp.asarray(segments), jnp.asarray(positions)


def _inputs() -> tuple[jax.Array, ...]:
    return normal(0, (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N * H))


def normal(seed: int, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Of NumPy: JAX would compile a program for every shape."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def blockwise(q: Any, k: Any, v: Any, mask: PackedMask, block: int, sinks: Any = None) -> Any:
    return attention(q, k, v, mask, scale=SCALE, sinks=sinks, block=block, implementation="blocks")


def dense(q: Any, k: Any, v: Any, mask: PackedMask, sinks: Any = None) -> Any:
    return attention(q, k, v, mask, scale=SCALE, sinks=sinks)


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("block", [8, 64])  # several blocks with a ragged end; one block for all
def test_equals_dense_attention_and_its_gradients(mask: Mask, block: int) -> None:
    packed = PackedMask(mask, *_packed())
    q, k, v, wanted = _inputs()
    real = (packed.positions >= 0)[..., None]

    def through(attention: Any) -> Any:
        def loss(q: Any, k: Any, v: Any) -> Any:
            out = jnp.where(real, attention(q, k, v), 0)
            return jnp.sum(out * wanted), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, out), grads = through(lambda q, k, v: blockwise(q, k, v, packed, block))
    (_, expected), expected_grads = through(lambda q, k, v: dense(q, k, v, packed))
    assert float(jnp.abs(out - expected).max()) <= 2e-6
    for got, want in zip(grads, expected_grads, strict=True):
        assert float(jnp.linalg.norm(want)) > 1
        assert float(jnp.abs(got - want).max()) <= 5e-6


@pytest.mark.parametrize("implementation", OF_PACKED_ROWS)
def test_a_sink_takes_part_in_the_sum_alone(implementation: str) -> None:
    """Values and gradients of both ways, against a softmax with the sink as one more score, whose weight is dropped."""
    packed = PackedMask(models.Sliding(11), *_packed())
    q, k, v, wanted = _inputs()
    real = (packed.positions >= 0)[..., None]

    def plain(q: Any, k: Any, v: Any, sinks: Any) -> Any:
        return reference(q, k, v, packed, scale=SCALE, sinks=sinks)

    def tested(q: Any, k: Any, v: Any, sinks: Any) -> Any:
        block = 8 if implementation == "blocks" else None
        return attention(q, k, v, packed, scale=SCALE, sinks=sinks, block=block, implementation=implementation)

    def through(call: Any) -> Any:
        def loss(*inputs: Any) -> Any:
            out = jnp.where(real, call(*inputs), 0)
            return jnp.sum(out * wanted), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, SINKS)

    (_, out), grads = through(tested)
    (_, expected), expected_grads = through(plain)
    assert float(jnp.abs(out - expected).max()) <= 2e-6
    for got, want in zip(grads, expected_grads, strict=True):
        assert float(jnp.abs(want).max()) > 0.1
        assert float(jnp.abs(got - want).max()) <= 5e-6


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("implementation", OF_PACKED_ROWS)
def test_implementations_equal_the_reference(implementation: str, mask: Mask) -> None:
    packed = PackedMask(mask, *_packed())
    q, k, v, _ = _inputs()
    real = (packed.positions >= 0)[..., None]
    out = attention(q, k, v, packed, scale=SCALE, implementation=implementation)
    expected = reference(q, k, v, packed, scale=SCALE)
    assert float(jnp.abs(expected).max()) > 1
    assert float(jnp.abs(jnp.where(real, out - expected, 0)).max()) <= 2e-6


def test_a_cache_of_int8_is_read_as_it_lies() -> None:
    """Heads before tokens, a factor for each key and value, and an array that says who sees whom."""
    q, k, v, _ = _inputs()
    visible = PackedMask(models.Sliding(11), *_packed()).visible()
    scales = [jnp.abs(x).max(axis=-1, keepdims=True).swapaxes(1, 2) / 127 for x in (k, v)]
    k, v = (jnp.round(x.swapaxes(1, 2) / scale).astype(jnp.int8) for x, scale in zip((k, v), scales, strict=True))
    options = {"scale": SCALE, "sinks": SINKS, "k_scale": scales[0], "v_scale": scales[1], "heads_first": True}
    out, expected = attention(q, k, v, visible, **options), reference(q, k, v, visible, **options)
    seen = visible.any(axis=-1)[..., None]
    assert float(jnp.abs(jnp.where(seen, out - expected, 0)).max()) <= 2e-6


# Positions of three tokens of each row of a cache with 53 slots, -1 padding: within a block of slots, over its end, in
# the last block, which lies over the one before it, and once around the ring; the last row is not fed.
LOOKING = jnp.asarray([[0, 1, 2], [6, 7, 8], [31, -1, -1], [51, 52, -1], [70, 71, 72], [-1, -1, -1]])


def in_int8(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Keys and values of 8 bits, and the factors that belong to them, as options of `attention`."""
    scales = [jnp.abs(x).max(axis=-1, keepdims=True) / 127 for x in (k, v)]
    k, v = (jnp.round(x / scale).astype(jnp.int8) for x, scale in zip((k, v), scales, strict=True))
    return k, v, {"k_scale": scales[0], "v_scale": scales[1]}


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("block", [8, 16, 52])
@pytest.mark.parametrize("form", ["float", "bfloat16", "int8", "latent"])
def test_by_length_equals_the_reference(form: str, block: int, chunk: int) -> None:
    rows = jnp.asarray([4, 0, 6, 2, 3, 9])  # of a cache of 7: the last row of the list fills it up
    q, k, v = normal(1, *((7, n, T, H) for n in (N, K, K)))
    q = q[:6, :, :chunk].swapaxes(1, 2)
    options: dict[str, Any] = {"scale": SCALE, "sinks": SINKS, "heads_first": True, "rows": rows}
    if form == "bfloat16":
        q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    if form == "int8":
        k, v, scales = in_int8(k, v)
        options |= scales
    if form == "latent":
        k = v = k[:, :1]
    positions = LOOKING[:, :chunk]
    for mask in MASKS:
        ring = RingMask(mask, positions, T)
        out = attention(q, k, v, ring, **options, block=block, implementation="by_length")
        expected = reference(q, k, v, ring, **options)
        error = jnp.where((positions >= 0)[..., None], out.astype(jnp.float32) - expected, 0)
        assert float(jnp.abs(error).max()) <= (2e-6 if form != "bfloat16" else 2e-2)
        assert not np.any(np.asarray(out[5], np.float32)), "a row that is not fed gets zero"


def test_by_length_reads_no_further_than_the_longest_row_that_is_fed() -> None:
    """NaN behind it reaches nobody, nor does a neighbour change a bit; a longer row would read it."""
    q, k, v, _ = _inputs()
    k, v = (x.swapaxes(1, 2).at[:, :, 24:].set(jnp.nan) for x in (k, v))

    def look(*positions: int) -> np.ndarray:
        ring = RingMask(models.Full(), jnp.asarray(positions)[:, None], T)
        options: dict[str, Any] = {"scale": SCALE, "heads_first": True, "block": 8}
        return np.asarray(attention(q[:, :1], k, v, ring, **options, implementation=to_a_cache("cpu")))

    both, alone = look(5, 23), look(5, -1)
    assert np.all(np.isfinite(both))
    np.testing.assert_array_equal(both[0], alone[0])
    assert np.all(np.isnan(look(5, 24)[1]))


@pytest.mark.parametrize("slots", [256, 384])  # two parts that are read at once, and three
def test_the_pallas_kernel_equals_the_reference(slots: int) -> None:
    """Rows with a part that is empty, a full one, and one that is not fed, whose output is finite."""
    q, k, v = (x.astype(jnp.bfloat16) for x in normal(2, (3, 1, 4, 64), *[(3, 2, slots, 64)] * 2))
    ring = RingMask(models.Full(), jnp.asarray([[100], [slots - 1], [-1]]), slots)
    options: dict[str, Any] = {"scale": SCALE, "heads_first": True}
    out = attention(q, k, v, ring, **options, implementation="pallas_gpu").astype(jnp.float32)
    assert np.all(np.isfinite(out))
    assert float(jnp.abs(out - reference(q, k, v, ring, **options))[:2].max()) <= 2e-2


def test_what_the_pallas_kernel_refuses() -> None:
    q = jnp.zeros((3, 1, 4, 64), jnp.bfloat16)
    k = jnp.zeros((3, 2, 256, 64), jnp.bfloat16)
    ring = RingMask(models.Full(), jnp.zeros((3, 1), int), 256)

    def refusal(q: jax.Array, k: jax.Array, mask: RingMask = ring, **more: Any) -> str:
        name = "pallas_gpu_pages" if "pages" in more else "pallas_gpu"
        with pytest.raises(NotImplementedError) as error:
            attention(q, k, k, mask, scale=1.0, heads_first=True, **more, implementation=name)
        return str(error.value)

    wide = RingMask(models.Full(), jnp.zeros((3, 2), int), 256)
    assert "only one new token per row, not 2" in refusal(jnp.tile(q, (1, 2, 1, 1)), k, wide)
    assert "only bfloat16 or float16, not float32" in refusal(q.astype(jnp.float32), k.astype(jnp.float32))
    assert "only one dtype throughout, not bfloat16 and float32" in refusal(q, k.astype(jnp.float32))
    assert "only multiples of 128 slots, not 200" in refusal(q, k[:, :, :200])
    assert "only heads of 64 or 128, not 32" in refusal(q[..., :32], k[..., :32])
    assert "at most 128 slots, not 256" in refusal(q, k, pages=jnp.zeros((3, 1), int))
    assert "at most 128 slots, not 24" in refusal(q, k[:, :, :24], pages=jnp.zeros((3, 1), int))
    assert "or numbers of 8 bits, not float32" in refusal(q, k.astype(jnp.float32), pages=jnp.zeros((3, 1), int))
    assert "does not take k_scale" in refusal(q, k, k_scale=jnp.ones((3, 2, 256, 1)))
    assert "tokens see all before them" in refusal(q, k, ring._replace(mask=models.Sliding(7)))
    assert "does not take sinks" in refusal(q, k, sinks=jnp.zeros(4))


def test_the_next_implementation_is_taken() -> None:
    """One block holds all slots: "by_length" refuses, and what follows does it. Where nothing does, all say why."""
    q, k, v, _ = _inputs()
    ring = RingMask(models.Full(), jnp.asarray([[5], [7]]), T)
    options: dict[str, Any] = {"scale": SCALE, "heads_first": True}
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    np.testing.assert_array_equal(
        attention(q[:, :1], k, v, ring, **options, implementation=to_a_cache("cpu")),
        attention(q[:, :1], k, v, ring, **options),
    )
    why = r"^attention: 'by_length' takes more slots .* 128\.\nattention: 'blocks' does not take heads_first\.$"
    with pytest.raises(NotImplementedError, match=why):
        attention(q[:, :1], k, v, ring, **options, implementation=("by_length", "blocks"))


def test_the_platform_decides() -> None:
    """That which it will run on, whatever this process runs on: a plan for TPUs is compiled on CPUs."""
    assert to_a_cache("gpu") == ("pallas_gpu", "by_length", "dense")
    assert to_a_cache("tpu") == ("pallas_tpu", "by_length", "dense")
    assert to_a_cache("cpu") == ("by_length", "dense")
    q, k, v, _ = _inputs()
    k, v = (jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, 400 - T), (0, 0))) for x in (k, v))
    ring = RingMask(models.Full(), jnp.asarray([[5], [7]]), 400)
    options: dict[str, Any] = {"scale": SCALE, "heads_first": True, "implementation": "by_length"}
    attention(q[:, :1], k, v, ring, **options, platform="cpu")
    with pytest.raises(NotImplementedError, match=r"more slots than those of one block, 512\.$"):
        attention(q[:, :1], k, v, ring, **options, platform="tpu")


def test_what_an_implementation_cannot_do_it_refuses() -> None:
    packed = PackedMask(models.Full(), *_packed())
    q, k, v, _ = _inputs()
    with pytest.raises(NotImplementedError, match=r"^attention: 'blocks' does not take heads_first, k_scale\.$"):
        attention(q, k, v, packed, scale=1.0, k_scale=jnp.ones((B, K, T, 1)), heads_first=True, implementation="blocks")
    with pytest.raises(NotImplementedError, match=r"^attention: 'dense' does not take block\.$"):
        attention(q, k, v, packed, scale=1.0, block=8)
    with pytest.raises(NotImplementedError, match=r"^attention: 'blocks' takes packed rows \(PackedMask\) only"):
        attention(q, k, v, packed.visible(), scale=1.0, implementation="blocks")
    with pytest.raises(NotImplementedError, match=r"^attention: 'by_length' takes the rows of a cache"):
        attention(q, k, v, packed, scale=1.0, implementation="by_length")
    names = "dense, blocks, by_length, pallas_gpu, pallas_gpu_pages, pallas_tpu"
    there = rf"^attention: there is no 'flash'\. Use one of: {names}\.$"
    with pytest.raises(ValueError, match=there):
        attention(q, k, v, packed, scale=1.0, implementation="flash")


def test_padding_gives_zero_and_no_gradient() -> None:
    packed = PackedMask(models.Full(), *_packed())
    q, k, v, wanted = _inputs()
    padding = np.asarray(packed.positions[1] < 0)

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(blockwise(q, k, v, packed, 8) * wanted)

    out = blockwise(q, k, v, packed, 8)
    assert padding.sum() == T - sum(DOCUMENTS[1])
    assert not np.any(np.asarray(out)[1, padding])
    for grad in jax.grad(loss, argnums=(0, 1, 2))(q, k, v):
        assert np.all(np.isfinite(grad))
        assert not np.any(np.asarray(grad)[1, padding])


def test_unseen_blocks_are_not_read() -> None:
    """NaN in a document before, in a later block and beyond the window reaches nobody."""
    length, block, window = 64, 8, 6
    q, k, v = (jnp.ones((1, length, 1, 4)) for _ in range(3))
    segments = jnp.asarray(np.repeat([[1, 2]], [16, 48], axis=1))
    positions = jnp.asarray(np.r_[np.arange(16), np.arange(48)][None])
    poison = k.at[0, :8].set(jnp.nan).at[0, 40:].set(jnp.nan)
    mask = PackedMask(models.Sliding(window), segments, positions)
    out = attention(q, poison, v, mask, scale=1.0, block=block, implementation="blocks")
    assert np.all(np.isfinite(np.asarray(out)[0, 16:40]))
    assert np.all(np.isnan(np.asarray(out)[0, :8]))


def test_a_train_row_never_holds_all_scores() -> None:
    """The compiled gradient has no array of T x T elements, and the dense one has."""
    length, heads = 1024, 2
    x = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
    where = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def gradient(attention: Any) -> str:
        def loss(q: Any, k: Any, v: Any, segments: Any, positions: Any) -> Any:
            return jnp.sum(jnp.square(attention(PackedMask(models.Full(), segments, positions), q, k, v)))

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x, where, where).compile()
        return compiled.as_text()

    text = gradient(lambda mask, *qkv: blockwise(*qkv, mask, 128))
    assert f"{length},{length}" not in text
    assert f"{length},{length}" in gradient(lambda mask, *qkv: dense(*qkv, mask))


def test_rows_and_heads_may_be_split_over_devices() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    packed = PackedMask(models.Sliding(11), *_packed())
    q, k, v, wanted = _inputs()

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(blockwise(q, k, v, packed, 8) * wanted)

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    split = NamedSharding(mesh, PartitionSpec("fsdp", None, "tensor"))
    for got, want in zip(step(*jax.device_put((q, k, v), split)), step(q, k, v), strict=True):
        assert float(jnp.abs(got - want).max()) <= 5e-6


PAGED = jnp.asarray([[3, 8, 5, 0], [7, 2, 9, 9], [9, 9, 9, 9], [6, 1, 4, 9]])  # 9: no page


@pytest.mark.parametrize("form", ["float", "int8", "latent"])
@pytest.mark.parametrize("implementation", ["dense", "by_length", "by_length on gpu", "pallas_tpu", "pallas_gpu_pages"])
def test_pages_are_read_in_the_order_of_the_table(implementation: str, form: str) -> None:
    """Rows that end in a page's middle and at its end, one that is not fed; against the pages put together. On a GPU
    several pages are read at a time, more than a row has.
    """
    implementation, _, platform = implementation.partition(" on ")
    on_gpus = implementation == "pallas_gpu_pages"
    chunk, size = (1, 128) if implementation.startswith("pallas") else (3, H)
    page = 16
    q, k, v = normal(3, (4, chunk, N, size), *[(9, K, page, size)] * 2)
    options: dict[str, Any] = {"scale": SCALE, "heads_first": True} | ({} if on_gpus else {"sinks": SINKS})
    if on_gpus:
        q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    if form == "int8":
        k, v, scales = in_int8(k.astype(jnp.float32), v.astype(jnp.float32))
        options |= scales
    if form == "latent":
        k = v = k[:, :1]
    positions = jnp.asarray([[61, 62, 63], [20, 21, -1], [-1, -1, -1], [0, 1, 2]])[:, :chunk]
    mask = RingMask(models.Full(), positions, 4 * page)

    def look() -> jax.Array:
        more = {"platform": platform} if platform else {}
        return attention(q, k, v, mask, **options, **more, pages=PAGED, implementation=implementation)

    if implementation == "pallas_tpu" and form == "int8":
        with pytest.raises(NotImplementedError, match="'pallas_tpu' does not take k_scale, v_scale"):
            look()
        return
    together = {name: _together(options[name]) for name in ("k_scale", "v_scale") if name in options}
    expected = reference(q, _together(k), _together(v), mask, **options | together)
    live, out = (positions >= 0)[..., None], look().astype(jnp.float32)
    assert float(jnp.abs(jnp.where(live, out - expected, 0)).max()) <= (3e-2 if on_gpus else 3e-6)
    assert not np.any(np.asarray(out)[2]), "a row that is not fed gets zero"


def _together(x: jax.Array) -> jax.Array:
    """The rows whose pages these are."""
    return jnp.concatenate([x[jnp.minimum(PAGED[:, i], 8)] for i in range(4)], axis=2)


def test_what_the_kernel_for_tpus_refuses() -> None:
    q, k = jnp.zeros((4, 1, 4, 128), jnp.bfloat16), jnp.zeros((9, 2, 16, 128), jnp.bfloat16)

    def refusal(q: jax.Array, k: jax.Array, mask: Mask | None = None, **more: Any) -> str:
        ring = RingMask(mask or models.Full(), jnp.zeros(q.shape[:2], int), 64)
        options: dict[str, Any] = {"scale": 1.0, "heads_first": True, "pages": PAGED} | more
        with pytest.raises(NotImplementedError) as error:
            attention(q, k, k, ring, **options, implementation="pallas_tpu")
        return str(error.value)

    assert "only caches in pages" in refusal(q, k, models.Sliding(4))
    assert "only caches in pages" in refusal(q, k, pages=None)
    assert "only one new token per row, not 2" in refusal(jnp.tile(q, (1, 2, 1, 1)), k)
    assert "not bfloat16 and float32" in refusal(q, k.astype(jnp.float32))
    assert "only heads of a multiple of 128, not 64" in refusal(q[..., :64], k[..., :64])
    assert "only TPUs, not 'gpu'" in refusal(q, k, platform="gpu")
