"""A trained model as a Hugging Face folder: its weights, and the tokenizer and settings that it came with."""

import json
import os
import shutil
from pathlib import Path

import jax

from tessy_jax import models
from tessy_jax.models.weights import open_tensors

_COPIED = (".json", ".jinja", ".model", ".txt")
_OURS = ("config.json", "model.safetensors.index.json")


def export(model: models.Model, source: Path, folder: Path, template: str | None = None) -> None:
    """Writes the model in the dtype of its source checkpoint; `folder` is replaced as a whole. All processes call it.

    Args:
        model: the trained model.
        source: the checkpoint that the training began with; tokenizer, settings and dtype are taken from it.
        folder: where to write.
        template: the chat template of the training, where it is not the checkpoint's own.

    Raises:
        OSError: it cannot be written.
    """
    partial, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    first = jax.process_index() == 0
    if first:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in sorted(source.iterdir()):
            if (file.suffix in _COPIED or file.name.startswith("LICENSE")) and file.name not in _OURS:
                shutil.copyfile(file, partial / file.name)
        if template is not None:
            _set_template(partial, template)
    dtype = next(iter(open_tensors(source).values())).array.dtype
    models.save_hf(model, partial, base=source, dtype=dtype)
    if first:
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)


def _set_template(folder: Path, template: str) -> None:
    """Writes the template to its own file, and removes all others, which might contradict it."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        values = json.loads(settings.read_text(encoding="utf-8"))
        values.pop("chat_template", None)
        settings.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
