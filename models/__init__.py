"""Decoders in JAX (Flax NNX): load a Hugging Face checkpoint, run it with a rollback-friendly cache, save it again.

    model = load("SmolLM2-135M-Instruct")
    graphdef, params = nnx.split(model)
    cache = init_cache(model.config, batch=8, length=2048, slack=64)

    @jax.jit
    def step(params, tokens, positions, cache):
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, positions, cache)
        return model.logits(hidden[:, -1]), cache

The files, in reading order:

    mask         which earlier tokens a token sees
    rope         rotary positions, and how they are stretched for long texts
    config       what a decoder is, read from config.json (families/*.py have one subclass each)
    sharding     logical axis names, and where arrays lie on a mesh
    attention    softmax attention: one signature, `dense`, and the reference of the tests
    blockwise    the same for long training rows, block by block
    by_length    the same for rows of a cache, as far as they are filled
    pallas_gpu   the same for one token of each row, with JAX's kernel for GPUs
    balance      how evenly routers spread tokens over experts
    key_values   the one call between a layer and the tokens it attends to; `Packed` rows, to train
    cache        keys and values of all tokens so far: a ring per layer that may be rolled back
    layers       linear, norms, MLP, attention, the usual block
    grouped      products of rows with their experts' matrices
    moe          mixtures of experts on one device and on a mesh
    decoder      embedding, blocks, norm and heads: the forward pass of every family
    families/    what is special to each: llama qwen3 qwen2 qwen3_moe gemma3 gpt_oss deepseek_v3
    formats/     matrices in fewer bits: int8, fp8 (DeepSeek), mx (GPT-OSS)
    registry     config.json -> family. A new family is one file in families/ and one line here
    build        models from their description: abstract, random, or of given arrays
    tensors      the tensors of a checkpoint folder: its files and their headers
    weights      safetensors -> arrays on their devices
    save         and back
    hub          a model's folder, by path or hub id
    gguf/        GGUF files -> Hugging Face folders (`convert`)

Letters in shapes: B batch, C chunk tokens, T text tokens, S cache slots, D model width, F feed-forward width,
V vocabulary, N query heads, K key/value heads, H head size, E experts, L labels; I and O are any layer's input and
output width.
"""

from tessy_jax.models.build import (
    ParamSpec,
    abstract,
    describe,
    from_config,
    named_parameters,
    parameter_bytes,
    parameter_count,
    shapes,
    with_parameters,
)
from tessy_jax.models.cache import Cache, Pool, init_cache
from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.decoder import CausalLM, Model, TokenClassifier, call_block
from tessy_jax.models.key_values import Packed
from tessy_jax.models.mask import Blocks, Full, Sliding
from tessy_jax.models.registry import config_from_hf, read_config
from tessy_jax.models.save import save_hf
from tessy_jax.models.sharding import INFERENCE, TRAINING, Rules, ShardingError, sharding_for
from tessy_jax.models.weights import (
    WeightsError,
    check_classifier,
    check_weights,
    classifier_config,
    load,
    load_classifier,
)

__all__ = [
    "INFERENCE",
    "TRAINING",
    "Blocks",
    "Cache",
    "CausalLM",
    "DecoderConfig",
    "Full",
    "Model",
    "ModelConfigError",
    "Packed",
    "ParamSpec",
    "Pool",
    "Rules",
    "ShardingError",
    "Sliding",
    "TokenClassifier",
    "WeightsError",
    "abstract",
    "call_block",
    "check_classifier",
    "check_weights",
    "classifier_config",
    "config_from_hf",
    "describe",
    "from_config",
    "init_cache",
    "load",
    "load_classifier",
    "named_parameters",
    "parameter_bytes",
    "parameter_count",
    "read_config",
    "save_hf",
    "shapes",
    "sharding_for",
    "with_parameters",
]
