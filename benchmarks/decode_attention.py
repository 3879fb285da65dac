"""Attention of decoding alone, by implementation: `python benchmarks/decode_attention.py`, on a GPU in two minutes.

Random keys and values in the shapes of Qwen3-8B, one layer. For each batch and capacity of the cache, and for each
length that is in use: time of a call, bytes in use over that time as a share of the memory bandwidth, and the largest
difference from the reference in float32. What fails says why, and the rest goes on. `--small` tries the script itself.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs some of the memory, too

import jax
import jax.numpy as jnp

from tessy_jax.models.attention import attention, reference
from tessy_jax.models.mask import Full, RingMask

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SCALE = HEAD_DIM**-0.5
BLOCKS = (256, 512, 1024, 2048)
COMPARED = 2
"""Rows that are compared with the reference, which is slow and large."""

Call = Callable[[Any, Any, Any, Any], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one tiny shape, on any machine")
    parser.add_argument("--seconds", type=float, default=110, help="begin no further shape after so long")
    options = parser.parse_args()
    began = time.perf_counter()
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), JAX {jax.__version__}; bfloat16, {HEADS} heads, {KV_HEADS} of keys"
    )
    print(f"peak: {1e-9 * (peak := bandwidth(8 if options.small else 1024)):.0f} GB/s (a copy); ", end="")
    print(f"an empty program: {1e6 * seconds(jax.jit(lambda x: x + 1), jnp.zeros(8)):.0f} us\n")
    print("batch | capacity | in use | implementation | us | GB/s of what is in use | share | max difference")
    print("---:|---:|---:|---|---:|---:|---:|---:")
    shapes = [(b, s) for s in (4096, 40960) for b in (8, 32, 128)]
    for batch, capacity in [(2, 1024)] if options.small else shapes:
        if time.perf_counter() - began > options.seconds:
            print(f"batch {batch}, capacity {capacity}: no time left")
            continue
        fills = (100, 700) if options.small else (100, 1000, 8000)
        attempt(f"{batch} | {capacity}", lambda b=batch, s=capacity, f=fills: measure(b, s, f, peak))
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def measure(batch: int, capacity: int, fills: tuple[int, ...], peak: float) -> None:
    """All implementations on one cache."""
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (batch, 1, HEADS, HEAD_DIM), jnp.bfloat16)
    k, v = (jax.random.normal(key, (batch, KV_HEADS, capacity, HEAD_DIM), jnp.bfloat16) for key in keys[1:])
    for name, call in calls().items():
        program = jax.jit(call)
        for fill in fills:
            if fill <= capacity:
                what = f"{batch} | {capacity} | {fill} | {name}"
                attempt(what, lambda p=program, f=fill, w=what: report(w, p, q, k, v, f, peak))
    # cuDNN reads keys with their tokens first: here it may have them so.
    k, v = (jax.block_until_ready(jax.jit(lambda x: x.swapaxes(1, 2))(x)) for x in (k, v))
    program = jax.jit(cudnn)
    for fill in fills:
        if fill <= capacity:
            what = f"{batch} | {capacity} | {fill} | cuDNN, tokens first"
            attempt(what, lambda f=fill, w=what: report(w, program, q, k, v, f, peak, tokens_first=True))
    del q, k, v
    for fill in fills:
        if fill <= capacity:
            what = f"{batch} | {capacity} | {fill} | torch"
            attempt(what, lambda f=fill, w=what: torch_report(w, batch, f, peak))


def calls() -> dict[str, Call]:
    """What is compared: functions of queries, keys, values and the number of tokens in use of each row."""

    def ours(q: Any, k: Any, v: Any, lengths: Any, **options: Any) -> Any:
        mask = RingMask(Full(), lengths[:, None] - 1, k.shape[2])
        return attention(q, k, v, mask, scale=SCALE, heads_first=True, **options)

    by_length = {f"by_length, {n}": partial(ours, implementation="by_length", block=n) for n in BLOCKS}
    return {
        "dense": partial(ours, implementation="dense"),
        **by_length,
        "pallas_gpu": partial(ours, implementation="pallas_gpu"),
        "cuDNN, swapped": lambda q, k, v, n: cudnn(q, k.swapaxes(1, 2), v.swapaxes(1, 2), n),
    }


def cudnn(q: Any, k: Any, v: Any, lengths: Any) -> Any:
    """JAX's binding of cuDNN's attention, on keys and values [B, S, K, H]."""
    out = jax.nn.dot_product_attention(
        q, k, v, scale=SCALE, key_value_seq_lengths=lengths.astype(jnp.int32), implementation="cudnn"
    )
    return out.reshape(*q.shape[:2], -1)


def report(
    what: str, program: Call, q: Any, k: Any, v: Any, fill: int, peak: float, tokens_first: bool = False
) -> None:
    """One line of the table."""
    batch = q.shape[0]
    lengths = jnp.full(batch, fill, jnp.int32)
    out = program(q, k, v, lengths)
    few = [x[:COMPARED, :fill].swapaxes(1, 2) if tokens_first else x[:COMPARED, :, :fill] for x in (k, v)]
    mask = RingMask(Full(), lengths[:COMPARED, None] - 1, fill)
    expected = reference(q[:COMPARED], *few, mask, scale=SCALE, heads_first=True)
    difference = float(jnp.abs(out[:COMPARED].astype(jnp.float32) - expected).max())
    line(what, seconds(program, q, k, v, lengths), batch, fill, peak, f"{difference:.1e}")


def torch_report(what: str, batch: int, fill: int, peak: float) -> None:
    """torch's attention over keys and values that are as long as what is in use."""
    import torch

    on = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(batch, HEADS, 1, HEAD_DIM, **on)
    k, v = (torch.randn(batch, KV_HEADS, fill, HEAD_DIM, **on) for _ in range(2))

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
    rate = 2 * 2 * batch * KV_HEADS * fill * HEAD_DIM / took
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
