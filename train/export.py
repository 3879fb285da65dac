"""A trained model as a Hugging Face folder: its weights, and the tokenizer and settings that it came with."""

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tessy_jax import models
from tessy_jax.models.tensors import FLOATS, open_tensors

_COPIED = (".json", ".jinja", ".model", ".txt")
_OURS = re.compile(r"config\.json|.*\.index\.json")


class EndOfTurn(NamedTuple):
    """The token that training taught to end an answer."""

    id: int
    token: str


def export(
    model: models.Model,
    source: Path,
    folder: Path,
    template: str | None = None,
    end: EndOfTurn | None = None,
    written: Callable[[Path], None] | None = None,
) -> None:
    """Writes the model in the dtype of its source checkpoint; `folder` is replaced as a whole. All processes call it.

    Args:
        model: the trained model.
        source: the checkpoint that the training began with; tokenizer, settings and dtype are taken from it.
        folder: where to write.
        template: the chat template of the training, where it is not the checkpoint's own.
        end: what ends an answer now; where the source ends texts with other tokens only, the folder's files name it,
            so that whoever generates with them stops there.
        written: see `save_hf`.

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
            if (file.suffix in _COPIED or file.name.startswith("LICENSE")) and not _OURS.fullmatch(file.name):
                shutil.copyfile(file, partial / file.name)
        if template is not None:
            _set_template(partial, template)
    models.save_hf(model, partial, base=source, dtype=_dtype(source), written=written)
    if first:
        if end is not None:
            _set_end(partial, end)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)


def _dtype(source: Path) -> np.dtype:
    """That of most of a checkpoint's numbers: some keep norms or a router in float32."""
    count: Counter[str] = Counter()
    for tensor in open_tensors(source).values():
        if tensor.code in FLOATS:
            count[tensor.code] += math.prod(tensor.shape)
    return np.dtype(FLOATS[max(count, key=count.__getitem__)])


def _set_end(folder: Path, end: EndOfTurn) -> None:
    """Makes a checkpoint end its texts with this token too, unless it does already."""
    files = {name: _read(folder / f"{name}.json") for name in ("generation_config", "config")}
    ends = {name: _listed(values.get("eos_token_id")) for name, values in files.items() if values is not None}
    if end.id in (ends.get("generation_config") or ends["config"]):
        return
    for name, ids in ends.items():
        _change(folder / f"{name}.json", eos_token_id=[end.id, *(i for i in ids if i != end.id)] if ids else end.id)
    for name in ("tokenizer_config", "special_tokens_map"):
        values = _read(folder / f"{name}.json")
        if values is not None and (name == "tokenizer_config" or "eos_token" in values):
            _change(folder / f"{name}.json", eos_token=end.token)


def _listed(ids: Any) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _change(path: Path, **values: Any) -> None:
    """Gives keys of a JSON file other values."""
    changed = (_read(path) or {}) | values
    path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _set_template(folder: Path, template: str) -> None:
    """Writes the template to its own file, and removes all others, which might contradict it."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        values = json.loads(settings.read_text(encoding="utf-8"))
        values.pop("chat_template", None)
        settings.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
