"""Attention of decoding alone, by implementation: `python benchmarks/decode_attention.py`, in two minutes.

Random keys and values in the shapes of Qwen3-8B in bfloat16, on CPUs of SmolLM2-135M in float32; one layer. For each
batch and capacity of the cache, and for each length that is in use: time of a call, bytes in use over that time as a
share of the memory bandwidth, and the largest difference from the reference in float32. "pages, N": the same keys and
values in pages of N tokens that lie in no order. What fails says why, and the rest goes on. `--small` tries the script
itself.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs some of the memory, too

import jax
import jax.numpy as jnp

from tessy_jax.models.attention import attention, reference, to_a_cache
from tessy_jax.models.mask import Full, RingMask

COMPARED = 2
"""Rows that are compared with the reference, which is slow and large."""

Call = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Layer:
    """What is measured: a layer's shapes, and sizes that suit the machine."""

    heads: int
    kv_heads: int
    size: int
    dtype: Any
    blocks: tuple[int, ...]
    batches: tuple[int, ...]
    capacities: tuple[int, ...]
    fills: tuple[int, ...]

    @property
    def scale(self) -> float:
        return self.size**-0.5


QWEN3_8B = Layer(32, 8, 128, jnp.bfloat16, (256, 512, 1024, 2048), (8, 32, 128), (4096, 40960), (100, 1000, 8000))
SMOLLM2 = Layer(9, 3, 64, jnp.float32, (32, 64, 128, 256), (8, 16, 32), (1152,), (100, 300, 600, 1100))
LAYER = SMOLLM2 if jax.default_backend() == "cpu" else QWEN3_8B
SMALL = Layer(*(LAYER.heads, LAYER.kv_heads, LAYER.size, LAYER.dtype, LAYER.blocks), (2,), (1024,), (100, 700))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one tiny shape, on any machine")
    parser.add_argument("--seconds", type=float, default=110, help="begin no further shape after so long")
    options = parser.parse_args()
    began = time.perf_counter()
    device = jax.devices()[0]
    heads = f"{LAYER.heads} heads of {LAYER.size}, {LAYER.kv_heads} of keys"
    print(f"{device.device_kind} ({device.platform}), JAX {jax.__version__}; {jnp.dtype(LAYER.dtype)}, {heads}")
    print(f"peak: {1e-9 * (peak := bandwidth(8 if options.small else 1024)):.0f} GB/s (a copy); ", end="")
    print(f"an empty program: {1e6 * seconds(jax.jit(lambda x: x + 1), jnp.zeros(8)):.0f} us\n")
    print("batch | capacity | in use | implementation | us | GB/s of what is in use | share | max difference")
    print("---:|---:|---:|---|---:|---:|---:|---:")
    layer = SMALL if options.small else LAYER
    for batch, capacity in [(b, s) for s in layer.capacities for b in layer.batches]:
        if time.perf_counter() - began > options.seconds:
            print(f"batch {batch}, capacity {capacity}: no time left")
            continue
        attempt(f"{batch} | {capacity}", lambda b=batch, s=capacity: measure(b, s, layer.fills, peak))
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def measure(batch: int, capacity: int, fills: tuple[int, ...], peak: float) -> None:
    """All implementations on one cache."""
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (batch, 1, LAYER.heads, LAYER.size), LAYER.dtype)
    k, v = (jax.random.normal(key, (batch, LAYER.kv_heads, capacity, LAYER.size), LAYER.dtype) for key in keys[1:])
    fills = tuple(fill for fill in fills if fill <= capacity)
    expected = {fill: wanted(q, k, v, fill) for fill in fills}

    def compare(name: str, call: Call, *cache: Any) -> None:
        program = jax.jit(call)
        for fill in fills:
            what = f"{batch} | {capacity} | {fill} | {name}"
            attempt(what, lambda f=fill, w=what: report(w, program, (q, *cache), f, expected[f], peak))

    for name, call in calls().items():
        compare(name, call, k, v)
    for page in sorted({64, 128, *LAYER.blocks}):
        if capacity % page == 0:
            compare(f"pages, {page}", *in_pages(page, k, v, to_a_cache(jax.default_backend())))
            if page <= 128 and jax.default_backend() == "gpu":
                compare(f"pallas_gpu_pages, {page}", *in_pages(page, k, v, ("pallas_gpu_pages",)))
    if jax.default_backend() != "gpu":
        return
    # cuDNN reads keys with their tokens first: here it may have them so.
    k, v = (jax.block_until_ready(jax.jit(lambda x: x.swapaxes(1, 2))(x)) for x in (k, v))
    compare("cuDNN, tokens first", cudnn, k, v)
    del q, k, v
    for fill in fills:
        what = f"{batch} | {capacity} | {fill} | torch"
        attempt(what, lambda f=fill, w=what: torch_report(w, batch, f, peak))


def in_pages(page: int, k: Any, v: Any, names: tuple[str, ...]) -> tuple[Call, Any, Any]:
    """Implementations, tried in turn, on the same cache in pages, and the pages of keys and values."""
    batch, heads, capacity, size = k.shape
    each = capacity // page
    table = jax.random.permutation(jax.random.key(1), batch * each).reshape(batch, each)

    @jax.jit
    def pool(x: Any) -> Any:
        parts = x.reshape(batch, heads, each, page, size).swapaxes(1, 2).reshape(batch * each, heads, page, size)
        return jnp.zeros_like(parts).at[table.reshape(-1)].set(parts)

    def call(q: Any, k: Any, v: Any, lengths: Any) -> Any:
        mask = RingMask(Full(), lengths[:, None] - 1, capacity)
        return attention(q, k, v, mask, scale=LAYER.scale, heads_first=True, pages=table, implementation=names)

    return call, jax.block_until_ready(pool(k)), jax.block_until_ready(pool(v))


def wanted(q: Any, k: Any, v: Any, fill: int) -> Any:
    """What the first rows should get, by the reference."""
    mask = RingMask(Full(), jnp.full((COMPARED, 1), fill - 1), fill)
    few = [x[:COMPARED, :, :fill] for x in (k, v)]
    return reference(q[:COMPARED], *few, mask, scale=LAYER.scale, heads_first=True)


def calls() -> dict[str, Call]:
    """What is compared: functions of queries, keys, values and the number of tokens in use of each row."""

    def ours(q: Any, k: Any, v: Any, lengths: Any, **options: Any) -> Any:
        mask = RingMask(Full(), lengths[:, None] - 1, k.shape[2])
        return attention(q, k, v, mask, scale=LAYER.scale, heads_first=True, **options)

    by_length = {f"by_length, {n}": partial(ours, implementation="by_length", block=n) for n in LAYER.blocks}
    everywhere = {"dense": partial(ours, implementation="dense"), **by_length}
    if jax.default_backend() != "gpu":
        return everywhere
    return {
        **everywhere,
        "pallas_gpu": partial(ours, implementation="pallas_gpu"),
        "cuDNN, swapped": lambda q, k, v, n: cudnn(q, k.swapaxes(1, 2), v.swapaxes(1, 2), n),
    }


def cudnn(q: Any, k: Any, v: Any, lengths: Any) -> Any:
    """JAX's binding of cuDNN's attention, on keys and values [B, S, K, H]."""
    out = jax.nn.dot_product_attention(
        q, k, v, scale=LAYER.scale, key_value_seq_lengths=lengths.astype(jnp.int32), implementation="cudnn"
    )
    return out.reshape(*q.shape[:2], -1)


def report(what: str, program: Call, inputs: tuple[Any, ...], fill: int, expected: Any, peak: float) -> None:
    """One line of the table."""
    lengths = jnp.full(len(inputs[0]), fill, jnp.int32)
    out = program(*inputs, lengths)[:COMPARED].astype(jnp.float32)
    difference = f"{float(jnp.abs(out - expected).max()):.1e}"
    line(what, seconds(program, *inputs, lengths), len(lengths), fill, peak, difference)


def torch_report(what: str, batch: int, fill: int, peak: float) -> None:
    """torch's attention over keys and values that are as long as what is in use."""
    import torch

    on = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(batch, LAYER.heads, 1, LAYER.size, **on)
    k, v = (torch.randn(batch, LAYER.kv_heads, fill, LAYER.size, **on) for _ in range(2))

    def run() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    run()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(20):
            run()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 20)
    line(what, best, batch, fill, peak, "")


def line(what: str, took: float, batch: int, fill: int, peak: float, difference: str) -> None:
    rate = 2 * jnp.dtype(LAYER.dtype).itemsize * batch * LAYER.kv_heads * fill * LAYER.size / took
    print(f"{what} | {1e6 * took:.0f} | {rate / 1e9:.0f} | {rate / peak:.2f} | {difference}", flush=True)


def seconds(program: Callable[..., Any], *args: Any) -> float:
    """Of a call, when 20 are queued; the best of three."""
    jax.block_until_ready(program(*args))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready([program(*args) for _ in range(20)])
        best = min(best, (time.perf_counter() - start) / 20)
    return best


def bandwidth(mebibytes: int) -> float:
    """Bytes per second of a copy, read and written."""
    x = jnp.ones(mebibytes * 2**18, jnp.float32)
    return 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)


def attempt(what: str, call: Callable[[], None]) -> None:
    """Runs `call`; an error takes one line and stops nothing."""
    try:
        call()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{what} | {type(error).__name__}: {first[:150]}", flush=True)


if __name__ == "__main__":
    main()
