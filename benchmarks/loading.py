"""What several processes read of one model, and how long they take: `python benchmarks/loading.py MODEL`.

    python benchmarks/loading.py /scratch/model --write 3            # first writes a model of 3 GiB there: Qwen3, bf16
    python benchmarks/loading.py /scratch/model --processes 1 2 4    # each number of processes loads it, on CPUs
    python benchmarks/loading.py s3://bucket/model

The processes have a device each and split the model over `tensor` (`--mesh fsdp`: as for training). Printed: the GiB
that they hold, that our reader took from the file or the store, and that the disk gave, of the process with most and in
all (files are put out of the page cache before; what one process has read, another finds there); the seconds of the
loading alone, and from the start of a process to its model.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from tessy_jax.devices import pod

SIZES = {
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 65536,
}
OTHERS = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
FILE, GIB = 256 << 20, 1 << 30


def write_model(folder: Path, gib: float) -> None:
    """Random weights of about so many GiB, in files of at most 256 MiB."""
    import numpy as np

    from tessy_jax.models.build import describe
    from tessy_jax.models.registry import read_config

    folder.mkdir(parents=True, exist_ok=True)

    def described(layers: int) -> dict[str, tuple[int, ...]]:
        config = OTHERS | SIZES | {"num_hidden_layers": layers}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        return {name: spec.shape for name, spec in describe(read_config(folder)).items()}

    one, two = (2 * sum(map(math.prod, described(layers).values())) for layers in (1, 2))
    shapes = described(max(1, round((gib * GIB - one) / (two - one)) + 1))
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if files[-1] and 2 * sum(map(math.prod, [*files[-1].values(), shape])) > FILE:
            files.append({})
        files[-1][name] = shape
    rng, index = np.random.default_rng(0), {}
    for number, tensors in enumerate(files):
        name, header, end = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors", {}, 0
        for tensor, shape in tensors.items():
            size = 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end, index[tensor] = end + size, name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for shape in tensors.values():
                numbers = rng.standard_normal(math.prod(shape), np.float32) * np.float32(0.02)
                file.write((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def work(model: str, axis: str, begun: float) -> None:
    """One process: loads its part, and prints what that took."""
    import jax
    import jax.numpy as jnp

    from tessy_jax import models
    from tessy_jax.config.sections import MeshConfig
    from tessy_jax.devices import processes
    from tessy_jax.devices.mesh import make_mesh
    from tessy_jax.models import tensors
    from tessy_jax.models.build import named_parameters
    from tessy_jax.models.hub import model_folder
    from tessy_jax.models.sharding import INFERENCE, TRAINING

    taken, part, far = 0, tensors.Tensor.part, tensors.far.read

    def counted(tensor: tensors.Tensor, index: tuple[slice, ...]) -> object:
        nonlocal taken
        found = part(tensor, index)
        if not model.startswith("s3:"):
            taken += found.nbytes
        return found

    def counted_far(file: Path, start: int, size: int) -> bytes | None:
        nonlocal taken
        found = far(file, start, size)
        taken += len(found or b"")
        return found

    tensors.Tensor.part, tensors.far.read = counted, counted_far  # type: ignore[method-assign, assignment]
    if int(os.environ["SLURM_NTASKS"]) > 1:
        processes.initialize(100, {})
    mesh = make_mesh(MeshConfig(**{axis: jax.device_count()}), jax.device_count())
    folder = model_folder(model, "model")
    before, started = _disk(), time.monotonic()
    rules = TRAINING if axis == "fsdp" else INFERENCE
    loaded = named_parameters(models.load(folder, mesh=mesh, rules=rules, dtype=jnp.bfloat16))
    jax.block_until_ready(loaded)
    ended = time.monotonic()
    held = sum(shard.data.nbytes for array in loaded.values() for shard in array.addressable_shards)
    row = {"held": held, "taken": taken, "disk": _disk() - before, "loading": ended - started}
    print(json.dumps(row | {"start": time.time() - begun}), flush=True)


def _disk() -> int:
    """Bytes that the disk has given this process so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure(model: str, axis: str, count: int) -> list[dict[str, float]]:
    """What each of so many processes took."""
    for file in Path(model).glob("*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun, job = time.time(), os.getpid() * 7 + count
    command = [sys.executable, __file__, model, "--mesh", axis, "--begun", str(begun)]

    def start(index: int) -> subprocess.Popen[str]:
        task = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": count}
        task |= {"SLURM_STEP_NUM_NODES": 1, "SLURM_PROCID": index, "SLURM_LOCALID": index}
        environment = os.environ | {name: str(value) for name, value in task.items()} | {"JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(command, env=environment | {"XLA_FLAGS": ""}, stdout=subprocess.PIPE, text=True)

    started = [start(index) for index in range(count)]
    answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process of {count} failed")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder, or URL of one on a store")
    parser.add_argument("--write", type=float, metavar="GIB", help="write a random model of this size there, then stop")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mesh", choices=("tensor", "fsdp"), default="tensor")
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_model(Path(options.model), options.write)
    elif options.begun:
        with pod.membership():
            work(options.model, options.mesh, options.begun)
    else:
        print("| processes | holds | took | disk gave | took, sum | disk gave, sum | loading s | start s |")
        print("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for count in options.processes:
            rows = measure(options.model, options.mesh, count)
            most = [max(row[name] for row in rows) / GIB for name in ("held", "taken", "disk")]
            sums = [sum(row[name] for row in rows) / GIB for name in ("taken", "disk")]
            times = [max(row[name] for row in rows) for name in ("loading", "start")]
            cells = [f"{value:.2f}" for value in (*most, *sums)] + [f"{value:.1f}" for value in times]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
