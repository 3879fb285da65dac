"""How fast a step of SFT is on this machine, beside torch: `python benchmarks/train_step.py [FOLDER] [options]`.

Both train the same checkpoint (default: the demo's SmolLM2-135M-Instruct) on the same batch of random tokens, in
float32: forward, backward, clipping, AdamW. torch is transformers' model with its own attention, and torch's fused
AdamW. Steps alternate, so that both meet the same machine; the best of each counts. CPU seconds are those of all cores
together: they say more than the clock where other programs run. A second table has the compiler's account of memory.
Prints Markdown tables.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from synthesis import machine, show

from tessy_jax import models
from tessy_jax.devices.host_memory import keep_freed_memory
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.remat import REMAT
from tessy_jax.train.step import Compute, TrainState, init, make_step

OPTIMIZER = AdamW(peak=1e-5, steps=1000)
SMOLLM2 = Path(__file__).parent.parent / ".cache" / "demo" / "smollm2-135m-instruct"


def main() -> None:
    keep_freed_memory()  # as every command does
    options = _options()
    config = models.read_config(options.folder)
    batch = random_batch(config.vocab_size, options.rows, options.length)
    show("machine", [machine()])
    if not options.no_speed:
        compute = Compute("float32", options.remat, options.attention, options.loss_chunk)
        ours, theirs = Ours(options.folder, batch, compute), _torch(options.folder, batch)
        measured = alternate([step for step in (ours, theirs) if step], options.steps)
        tokens = options.rows * options.length
        rows = [
            {
                "": step.name,
                "s/step": wall,
                "CPU s/step": cpu,
                "tokens/s": tokens / wall,
                "compile s": step.compile,
                "loss": f"{loss:.5f}",
            }
            for step, (wall, cpu, loss) in measured
        ]
        show(f"{options.folder.name}, {options.rows} x {options.length} tokens, float32, best of {options.steps}", rows)
    if not options.no_memory:
        table = [
            {"remat": remat, "loss_chunk": chunk, **memory(options.folder, batch, remat, chunk, options.attention)}
            for remat, chunk in itertools.product(REMAT, options.chunks)
        ]
        show(f"memory of a step, MiB: {options.rows} x {options.length} tokens, {options.attention}, float32", table)


def random_batch(vocabulary: int, rows: int, length: int) -> Batch:
    """One micro-batch; every row is one document, and every token but its first is trained."""
    shape = (1, rows, length)
    tokens = np.random.default_rng(0).integers(0, vocabulary, shape, dtype=np.int32)
    inner = np.arange(length) < length - 1
    return Batch(
        tokens=tokens,
        targets=np.where(inner, np.roll(tokens, -1, axis=-1), 0),
        segments=np.ones(shape, np.int32),
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), shape).copy(),
        parts=np.broadcast_to(inner, shape).astype(np.int8),
        weights=np.broadcast_to(inner, shape).astype(np.float32),
    )


def alternate(steps: list[Any], count: int) -> list[tuple[Any, tuple[float, float, float]]]:
    """(step, (best seconds, best CPU seconds, loss of the last step)) of each, one after the other, `count` times."""
    measured: dict[int, list[tuple[float, float, float]]] = {i: [] for i in range(len(steps))}
    for _ in range(count + 1):
        for i, step in enumerate(steps):
            wall, cpu = time.perf_counter(), time.process_time()
            loss = step()
            measured[i].append((time.perf_counter() - wall, time.process_time() - cpu, loss))
    best = [(min(m[0] for m in ms[1:]), min(m[1] for m in ms[1:]), ms[-1][2]) for ms in measured.values()]
    return list(zip(steps, best, strict=True))


class Ours:
    """A step of this package."""

    name = "ours"

    def __init__(self, folder: Path, batch: Batch, compute: Compute):
        config = models.read_config(folder)
        self.state = init(config, models.named_parameters(models.load(folder)), None, OPTIMIZER)
        self.batch = jax.device_put(batch)
        start = time.perf_counter()
        self.step: Callable[..., Any] = _compiled(config, self.state, batch, compute)
        self.compile = time.perf_counter() - start

    def __call__(self) -> float:
        self.state, metrics = self.step(self.state, self.batch)
        return float(jax.block_until_ready((self.state, metrics))[1].loss)


def _compiled(config: models.DecoderConfig, state: TrainState, batch: Batch, compute: Compute) -> Any:
    return make_step(config, None, OPTIMIZER, compute).lower(state, batch).compile()


def memory(folder: Path, batch: Batch, remat: str, chunk: int, attention: str) -> dict[str, float]:
    """What the compiled step holds at its peak: the state, which it updates in place, and what it needs besides."""
    config = models.read_config(folder)
    shapes = {name: jax.ShapeDtypeStruct(s.shape, np.float32) for name, s in models.describe(config).items()}
    state = jax.eval_shape(lambda params: init(config, params, None, OPTIMIZER), shapes)
    program = _compiled(config, state, batch, Compute("float32", remat, attention, chunk))
    found = program.memory_analysis()
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {"state": kept / 2**20, "besides": found.temp_size_in_bytes / 2**20}


def _torch(folder: Path, batch: Batch) -> Any:
    try:
        import torch
        import transformers
    except ImportError:
        return None

    class Torch:
        name = "torch"
        compile = 0.0

        def __init__(self) -> None:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            settings = {"lr": OPTIMIZER.peak, "betas": (OPTIMIZER.b1, OPTIMIZER.b2), "eps": OPTIMIZER.eps}
            self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.0, fused=True, **settings)
            self.tokens = torch.tensor(batch.tokens[0]).long()

        def __call__(self) -> float:
            logits = self.model(self.tokens).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.item()

    return Torch()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/train_step.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, default=SMOLLM2, help="Hugging Face checkpoint")
    parser.add_argument("--rows", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--length", type=int, default=512, help="tokens per row (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="the best of so many counts (default: %(default)s)")
    parser.add_argument("--remat", choices=REMAT, default="none", help="for the speed (default: %(default)s)")
    parser.add_argument("--attention", choices=("dense", "blocks"), default="dense", help="(default: %(default)s)")
    parser.add_argument("--loss-chunk", type=int, default=512, help="for the speed (default: %(default)s)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 1024], help="for the memory")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
