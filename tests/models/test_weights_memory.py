"""Loading a checkpoint takes the memory of the model and about one parameter more."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessy_jax import models

LAYERS = 8
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16384,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}

MEASURE = """
import re, sys, threading, time
import jax
from tessy_jax import models

def private():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
jax.block_until_ready(jax.device_put(jax.numpy.zeros(8), jax.NamedSharding(mesh, jax.P())))
before, peak, done = private(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, private())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
model = models.load(sys.argv[1], mesh=mesh, rules=models.TRAINING, dtype=jax.numpy.bfloat16)
jax.block_until_ready(models.named_parameters(model))
done.set()
thread.join()
print(before, peak)
"""
"""Prints the most private memory of the process before and while it loads. What is mapped from files is not counted:
the kernel takes it back when it needs it.
"""


def write(folder: Path) -> dict[str, int]:
    """A checkpoint of zeros in one file per layer, which take no room on most disks; the bytes of each tensor."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    sizes, weight_map, files = {}, {}, {}
    for name, spec in models.describe(models.config_from_hf(CONFIG)).items():
        sizes[name] = 2 * math.prod(spec.shape)
        weight_map[name] = f"part-{name.split('.')[2] if '.layers.' in name else LAYERS}.safetensors"
        files.setdefault(weight_map[name], {})[name] = spec.shape
    for file, shapes in files.items():
        header, end = {}, 0
        for name, shape in shapes.items():
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sizes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_about_one_parameter_more(tmp_path: Path) -> None:
    sizes = write(tmp_path)
    flags = "--xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    before, peak = map(int, out.split())
    whole, largest = sum(sizes.values()), max(sizes.values())
    more = peak - before - whole
    print(f"model {whole:,} bytes, at most {more:,} more while loading, largest parameter {largest:,}")
    assert whole > 10**9
    assert more < 2 * largest  # what load itself needs is in it: code, descriptions of parameters
