"""Untrained writers as Hugging Face folders: small decoders of two families, two tokenizers, two chat templates."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tessy_jax.models import describe, read_config


class Writer(NamedTuple):
    """What one side's folders are made of.

    Attributes:
        control: control tokens: padding, start of the user's and of the model's message, end of a message, then those
            around the thinking.
        merges: tokens of the vocabulary besides single bytes and control tokens, at most.
        config: of its config.json.
    """

    control: tuple[str, ...]
    merges: int
    config: dict[str, Any]

    def of_width(self, width: int) -> "Writer":
        """The same writer, narrower or wider: all sizes in proportion, as many layers and heads."""
        sizes = {
            name: self.config[name] * width // self.config["hidden_size"]
            for name in ("hidden_size", "intermediate_size", "head_dim")
        }
        return self._replace(config=self.config | sizes)

    @property
    def template(self) -> str:
        _, user, model, end, *_ = self.control
        return (
            "{%- for message in messages %}{%- if message.role == 'assistant' %}"
            f"{{{{- '{model}' + message.content + '{end}' }}}}{{%- else %}}"
            f"{{{{- '{user}' + message.content + '{end}' }}}}{{%- endif %}}{{%- endfor %}}"
            f"{{%- if add_generation_prompt %}}{{{{- '{model}' }}}}{{%- endif %}}"
        )


STUDENT = Writer(
    control=("<|pad|>", "<|user|>", "<|student|>", "<|end|>", "<think>", "</think>"),
    merges=130,
    config={
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
)
TEACHER = Writer(
    control=("<pad>", "<ask>", "<tell>", "<stop>", "<work>", "</work>"),
    merges=300,
    config={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 80,
        "intermediate_size": 224,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 20,
    },
)
_COMMON = {
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def write_folder(folder: Path, writer: Writer, texts: Iterable[str], seed: int) -> None:
    """A tokenizer trained on `texts`, the chat template, and weights that have learned nothing yet."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(folder, writer, texts)
    pad, _, _, end, *_ = writer.control
    ids = {"eos_token_id": size - len(writer.control) + writer.control.index(end)}
    _write_json(folder / "config.json", {**writer.config, **_COMMON, "vocab_size": size, **ids})
    _write_json(folder / "generation_config.json", ids)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": end,
            "pad_token": pad,
            "chat_template": writer.template,
        },
    )
    draw = np.random.default_rng(seed)
    weights = {}
    for name, spec in describe(read_config(folder)).items():
        values = np.ones(spec.shape) if len(spec.shape) == 1 else draw.normal(0, 0.04, spec.shape)
        weights[name] = values.astype(ml_dtypes.bfloat16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _write_tokenizer(folder: Path, writer: Writer, texts: Iterable[str]) -> int:
    """Byte-pair encoding of words, digits apart; returns the number of tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + writer.merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    spec = json.loads(tokenizer.to_str())
    plain = tokenizer.get_vocab_size()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"] = [{"id": plain + n, "content": name, **flags} for n, name in enumerate(writer.control)]
    _write_json(folder / "tokenizer.json", spec)
    return plain + len(writer.control)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
