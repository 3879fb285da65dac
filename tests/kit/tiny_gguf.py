"""Tiny random GGUF files whose metadata a test chooses."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

DIM, HEADS, KV_HEADS, FF, LAYERS = 32, 4, 2, 64, 2
TOKENS = [*"abcdefghijklmnopqrstuvwxyz", "ab", "<|end|>", "<think>"]

METADATA: dict[str, Any] = {
    "llama.context_length": 128,
    "llama.embedding_length": DIM,
    "llama.block_count": LAYERS,
    "llama.feed_forward_length": FF,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * 27 + [3, 4],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 27,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}


def tensors(head_dim: int = DIM // HEADS, kv_heads: int = KV_HEADS) -> dict[str, np.ndarray]:
    """The tensors of a llama of these sizes."""
    rng = np.random.default_rng(0)
    layer = {
        "attn_norm": (DIM,),
        "attn_q": (HEADS * head_dim, DIM),
        "attn_k": (kv_heads * head_dim, DIM),
        "attn_v": (kv_heads * head_dim, DIM),
        "attn_output": (DIM, HEADS * head_dim),
        "ffn_norm": (DIM,),
        "ffn_gate": (FF, DIM),
        "ffn_up": (FF, DIM),
        "ffn_down": (DIM, FF),
    }
    shapes = {"token_embd.weight": (len(TOKENS), DIM), "output_norm.weight": (DIM,)}
    shapes |= {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write(path: Path, metadata: dict[str, Any], weights: dict[str, np.ndarray], arch: Any = "llama") -> Path:
    """Writes a GGUF file; metadata values of None are left out."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0]["general.architecture"].value = arch
    for key, value in metadata.items():
        if value is not None:
            writer.add_key_value(key, value, _type(value))
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type(value: Any) -> gguf.GGUFValueType:
    kinds = {bool: "BOOL", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    if type(value) is int:
        return gguf.GGUFValueType.UINT32 if 0 <= value < 2**32 else gguf.GGUFValueType.INT64
    return gguf.GGUFValueType[kinds[type(value)]]
