"""Whatever is wrong with a checkpoint's files is said by --dry-run and by the run, before there is a run directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml

from tessy_jax import sample, sft, synthesize, train_predictor
from tessy_jax.predictors.checkpoint import style_label
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import ContentTokenizer, TextError
from tests.kit import run_predictor, run_sft
from tests.kit.run_synthesize import pair

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 538090408\n"


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Changes what a JSON file holds."""
    values = json.loads(file.read_text())
    file.write_text(json.dumps(change(values) or values))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    file = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file, {"format": "pt"})


def token(number: int, content: str, special: bool = False) -> dict[str, Any]:
    form = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": special, **form}


def pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(LFS)


def add_tokens(special: bool) -> Callable[[Path], object]:
    """Adds `<new0>` to `<new7>`, and leaves the model as it is."""

    def add(folder: Path) -> None:
        first = ContentTokenizer.load(folder).vocab_size
        more = [token(first + i, f"<new{i}>", special) for i in range(8)]
        edit(folder / "tokenizer.json", lambda spec: spec["added_tokens"].extend(more))

    return add


def name_templates(entries: Callable[[str], list[Any]]) -> Callable[[Path], object]:
    """Puts a list in place of the chat template."""

    def put(folder: Path) -> None:
        edit(folder / "tokenizer_config.json", lambda v: v.update(chat_template=entries(v["chat_template"])))

    return put


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "lfs tokenizer": (pointer("tokenizer.json"), ("tokenizer.json", "Git LFS pointer")),
    "lfs config": (pointer("config.json"), ("config.json", "Git LFS pointer")),
    "lfs weights": (pointer("model.safetensors"), ("model.safetensors", "Git LFS pointer")),
    "no json": (lambda f: (f / "tokenizer.json").write_text('{"a": '), ("tokenizer.json", "is not valid JSON")),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), ("tokenizer.json", "is no tokenizer")),
    "other names": (
        lambda f: rewrite(f, lambda tensors: {f"language_model.{name}": x for name, x in tensors.items()}),
        ("tensor ", "is missing ("),
    ),
    "other shape": (
        lambda f: rewrite(f, lambda tensors: tensors | {"model.norm.weight": np.ones(3, np.float32)}),
        ("model.safetensors", "model.norm.weight: has shape (3,)"),
    ),
    "other dtype": (
        lambda f: rewrite(f, lambda tensors: tensors | {"model.norm.weight": tensors["model.norm.weight"].astype(int)}),
        ("model.safetensors", "model.norm.weight: has dtype I64"),
    ),
    "left over": (
        lambda f: rewrite(f, lambda tensors: tensors | {"model.more.weight": np.ones(3, np.float32)}),
        ("model.safetensors", "model.more.weight: is not a parameter"),
    ),
    "index": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"metadata": {}}'),
        ("model.safetensors.index.json", "weight_map"),
    ),
    "tokens beyond": (add_tokens(False), ("tokenizer.json", "tokens, but config.json", "vocab_size", "<new")),
}
CHATS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "lfs settings": (pointer("tokenizer_config.json"), ("tokenizer_config.json", "Git LFS pointer")),
    "lfs template": (pointer("chat_template.jinja"), ("chat_template.jinja", "Git LFS pointer")),
    "named templates": (
        name_templates(lambda text: [{"name": name, "template": text} for name in ("rag", "tools")]),
        ("tokenizer_config.json", "'rag', 'tools'", "prompt.template"),
    ),
    "a template for tools": (
        name_templates(lambda text: [{"name": "tool_use", "template": text}]),
        ("tokenizer_config.json", "'tool_use'", "prompt.template"),
    ),
    "no named templates": (
        name_templates(lambda text: []),
        ("tokenizer_config.json: chat_template: is an empty list", "prompt.template"),
    ),
    "a name without its template": (
        name_templates(lambda text: [{"name": "rag", "template": text}, {"name": "default"}]),
        ("tokenizer_config.json: chat_template[1]: has no 'template'", "prompt.template"),
    ),
    "a template that is a number": (
        name_templates(lambda text: [{"name": "default", "template": 3}]),
        ("tokenizer_config.json: chat_template[0].template: is int, not text", "prompt.template"),
    ),
    "templates without objects": (
        name_templates(lambda text: [text]),
        ("tokenizer_config.json: chat_template[0]: is str, not an object", "prompt.template"),
    ),
    "added tokens": (
        lambda f: (f / "added_tokens.json").write_text('{"<new>": 77}'),
        ("added_tokens.json", "<new>", "save_pretrained"),
    ),
    "declared tokens": (
        lambda f: edit(
            f / "tokenizer_config.json", lambda v: v.update(added_tokens_decoder={"600": {"content": "<new>"}})
        ),
        ("tokenizer_config.json", "added_tokens_decoder", "<new>", "save_pretrained"),
    ),
    "special tokens": (
        lambda f: (f / "special_tokens_map.json").write_text('{"eos_token": "<new>"}'),
        ("special_tokens_map.json", "eos_token", "<new>", "save_pretrained"),
    ),
    "tokens beyond that are written": (
        lambda f: (
            add_tokens(True)(f),
            edit(f / "tokenizer_config.json", lambda v: v.update(chat_template=v["chat_template"] + "<new7>")),
        ),
        ("tokenizer.json", "tokens, but config.json", "<new7>"),
    ),
}


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """fails(command, arguments, words): with and without --dry-run, in one line that has the words."""

    def run(command: Any, arguments: list[str], words: tuple[str, ...]) -> None:
        for more in (["--dry-run"], []):
            capsys.readouterr()
            assert command.main([*arguments, "--output", str(tmp_path / "run"), *more]) == 1
            out, messages = capsys.readouterr()
            assert out == ""
            assert messages.count("\n") == 1, messages
            assert all(word in messages for word in words), messages
        assert not (tmp_path / "run").exists()

    return run


def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "model")


@pytest.mark.parametrize("kind", [*DAMAGE, *CHATS])
def test_of_a_model_that_writes(fails: Callable[..., None], tmp_path: Path, kind: str) -> None:
    damage, words = (DAMAGE | CHATS)[kind]
    model = copy(pair().parent / "student", tmp_path)
    damage(model)
    fails(synthesize, [str(pair()), f"student.model={model}"], words)


def test_a_template_of_the_configuration_replaces_a_damaged_one(tmp_path: Path) -> None:
    """As the messages advise."""
    model = copy(pair().parent / "student", tmp_path)
    template = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
    wanted = Chat.load(model).prompt_ids([{"role": "user", "content": "Hi"}])
    name_templates(lambda text: [{"name": "default"}])(model)
    assert Chat.load(model, template=template).prompt_ids([{"role": "user", "content": "Hi"}]) == wanted


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_of_a_predictor(fails: Callable[..., None], tmp_path: Path, kind: str) -> None:
    damage, words = DAMAGE[kind]
    model = copy(pair().parent / "predictor", tmp_path)
    damage(model)
    fails(synthesize, [str(pair()), f"predictors.teacher.model={model}"], words)


@pytest.mark.parametrize("kind", ["lfs tokenizer", "other names", "tokens beyond", "named templates"])
def test_of_a_model_to_train_or_alone(fails: Callable[..., None], tmp_path: Path, kind: str) -> None:
    damage, words = (DAMAGE | CHATS)[kind]
    model = copy(run_sft.student().parent / "student", tmp_path)
    damage(model)
    fails(sft, [str(run_sft.student()), f"model={model}"], words)
    alone = tmp_path / "sample.yaml"
    config = yaml.safe_load(pair().read_text())
    keep = {"input": config["input"], "engine": config["engine"], "output": config["output"]}
    alone.write_text(yaml.safe_dump({"model": str(model), **keep}))
    fails(sample, [str(alone)], words)


@pytest.mark.parametrize("kind", ["lfs tokenizer", "other names", "other shape", "tokens beyond"])
def test_of_a_classifier_to_train(fails: Callable[..., None], tmp_path: Path, kind: str) -> None:
    (tmp_path / "config").mkdir()
    config = run_predictor.write_predictor(tmp_path / "config")
    damage, words = DAMAGE[kind]
    damage(tmp_path / "config/base")
    fails(train_predictor, [str(config)], words)


def test_a_gguf_file_is_to_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    for name in (str(file), "nowhere/tiny.gguf"):
        assert synthesize.main([str(pair()), f"student.model={name}", "--dry-run"]) == 2
        assert f"python -m tessy_jax.convert {name} tiny" in capsys.readouterr().err


def test_labels_say_which_is_style(tmp_path: Path) -> None:
    for index, labels in enumerate([("Style", "Capability"), ("LABEL_0", "LABEL_1")]):
        assert style_label(tmp_path, labels) == index
    for index, labels in [
        (0, ("style", "other")),
        (1, ("0", "STYLE")),
        (1, ("capability", "x")),
        (0, ("style", "non-style")),
    ]:
        assert style_label(tmp_path, labels) == index
    for labels in (("style", "style"), ("style", "style_2"), ("capability", "capability"), ("a",), ()):
        with pytest.raises(TextError, match="label"):
            style_label(tmp_path, labels)


def test_a_special_token_that_nothing_writes_may_lie_beyond_the_embedding(tmp_path: Path) -> None:
    """`<image_soft_token>` of Gemma 3, whose text models have no row for it."""
    model = copy(pair().parent / "student", tmp_path)
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    add_tokens(True)(model)
    Chat.load(model).check_fits(size)
