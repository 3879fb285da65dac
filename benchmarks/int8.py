"""What 8 bits change: `python benchmarks/int8.py [MODEL FOLDER …] [--text problems.jsonl] [--tokens 256]`.

Prints a Markdown table: the mean Kullback-Leibler divergence of next-token distributions (nats) from those of the
same model in bfloat16, over the text's tokens, and how often the most probable token is another. Also for float32,
which says how much of that is rounding alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerFast

from tessy_jax import models

CASES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": jnp.float32, "int8": False, "cache": jnp.float32},
    "int8 cache": {"dtype": jnp.bfloat16, "int8": False, "cache": jnp.int8},
    "int8 weights": {"dtype": jnp.bfloat16, "int8": True, "cache": jnp.bfloat16},
    "int8 weights and cache": {"dtype": jnp.bfloat16, "int8": True, "cache": jnp.int8},
}
DEMO = (".cache/demo/smollm2-135m-instruct", ".cache/demo/gemma3-270m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(folder) for folder in DEMO])
    parser.add_argument("--text", type=Path, default=Path("configs/practice.jsonl"), help="JSON lines with `prompt`")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per row; 8 rows")
    options = parser.parse_args()
    text = "\n\n".join(json.loads(line)["prompt"] for line in options.text.read_text(encoding="utf-8").splitlines())
    print("| model | in | divergence from bfloat16, nats | another most probable token |\n|---|---|---:|---:|")
    for folder in options.folders:
        ids = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).encode(text)
        tokens = np.resize(np.asarray(ids), (8, options.tokens))
        base = log_probabilities(folder, tokens, dtype=jnp.bfloat16, int8=False, cache=jnp.bfloat16)
        for name, case in CASES.items():
            other = log_probabilities(folder, tokens, **case)
            divergence = float(jnp.mean(jnp.sum(jnp.exp(base) * (base - other), axis=-1)))
            changed = float(jnp.mean(base.argmax(-1) != other.argmax(-1)))
            print(f"| {folder.name} | {name} | {divergence:.2e} | {changed:.2%} |", flush=True)


def log_probabilities(
    folder: Path, tokens: Int[np.ndarray, "B T"], dtype: Any, int8: bool, cache: Any
) -> Float[Array, "B T V"]:
    """Of the next token at each place; the text goes through the cache 64 tokens at a time."""
    model = models.load(folder, dtype=dtype, int8=int8)
    graph, params = nnx.split(model)
    memory = models.init_cache(model.config, *tokens.shape, 64, cache)

    @jax.jit
    def read(params: Any, tokens: Array, positions: Array, memory: Any) -> tuple[Array, Any]:
        model = nnx.merge(graph, params)
        hidden, memory = model(tokens, positions, memory)
        return jax.nn.log_softmax(model.logits(hidden)), memory

    out = []
    for start in range(0, tokens.shape[1], 64):
        positions = jnp.broadcast_to(jnp.arange(start, start + 64), (len(tokens), 64))
        found, memory = read(params, jnp.asarray(tokens[:, start : start + 64]), positions, memory)
        out.append(found)
    return jnp.concatenate(out, axis=1)


if __name__ == "__main__":
    main()
