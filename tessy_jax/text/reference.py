"""A checkpoint's own tokenizer in `transformers`, and its chat template, with errors in words."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessy_jax.text.files import read_json, read_text, without_collection
from tessy_jax.text.tokenizer import TextError

_JSON = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *("config.json", "generation_config.json"),
)
_GIVE_ONE = "give a Jinja template as prompt.template in the config."


def open_reference(folder: str | Path, template: str | None = None) -> Any:
    """The folder's tokenizer as `transformers` reads it; no network. Raises `TextError` for a damaged file.

    Args:
        template: a chat template instead of those of the folder, which are not looked at then.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch was not found: it is not needed
    check_files(Path(folder))
    if template is None:
        _check_named_templates(Path(folder))
    instead = {} if template is None else {"chat_template": template}
    try:
        with without_collection(), _without_torch():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **instead)
    except Exception as error:  # it is said nowhere what may come
        reason = " ".join(str(error).split())
        raise TextError(
            f"{_damaged(Path(folder))}: transformers cannot read the tokenizer of this folder "
            f"({type(error).__name__}: {reason:.200}). Download its tokenizer files again."
        ) from None


def _damaged(folder: Path) -> Path:
    """Which of a tokenizer's files transformers cannot read; it does not say."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # it raises nothing narrower
        return folder / "tokenizer.json"
    return folder / "tokenizer_config.json"


@contextmanager
def _without_torch() -> Iterator[None]:
    """In a process of a command, transformers is imported as where PyTorch is not installed: four seconds less, and no
    tokenizer needs it. In another program it may be wanted for more than tokenizers.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if "torch" in sys.modules or program is None or not program.name.startswith("tessy_jax."):
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # so that an import of it fails (Python's import system)
    try:
        yield
    finally:
        del sys.modules["torch"]


def check_files(folder: Path) -> None:
    """Raises `TextError` where one of the files beside tokenizer.json cannot be read."""
    for name in _JSON:
        if (folder / name).is_file():
            read_json(folder / name, TextError)
    for template in _template_files(folder):
        read_text(template, TextError)


def template_of(reference: Any, folder: str | Path) -> str:
    """The chat template that the checkpoint has, or of several the one named "default". Raises `TextError`."""
    found = reference.chat_template
    if not found:
        raise TextError(
            f"{folder} has no chat template, neither as chat_template.jinja nor in tokenizer_config.json: "
            "give a Jinja template as prompt.template in the config (base models have none)."
        )
    place = Path(folder) if _template_files(Path(folder)) else Path(folder) / "tokenizer_config.json"
    if isinstance(found, dict):
        if "default" not in found:
            raise TextError(
                f"{place} has chat templates named {', '.join(map(repr, found))} and none named 'default': "
                "give the one to use as prompt.template in the config."
            )
        found = found["default"]
    if not isinstance(found, str):
        raise TextError(f"{place}: chat_template: is {type(found).__name__}, not text: {_GIVE_ONE}")
    return found


def _check_named_templates(folder: Path) -> None:
    """Raises `TextError` where tokenizer_config.json has a list that is not one of names and templates."""
    found = read_settings(folder, "tokenizer_config.json").get("chat_template")
    if not isinstance(found, list) or _template_files(folder):
        return
    place = f"{folder / 'tokenizer_config.json'}: chat_template"
    if not found:
        raise TextError(f"{place}: is an empty list: {_GIVE_ONE}")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise TextError(f"{place}[{number}]: is {type(entry).__name__}, not an object: {_GIVE_ONE}")
        for key in ("name", "template"):
            if key not in entry:
                raise TextError(f"{place}[{number}]: has no {key!r}: {_GIVE_ONE}")
            if not isinstance(entry[key], str):
                raise TextError(f"{place}[{number}].{key}: is {type(entry[key]).__name__}, not text: {_GIVE_ONE}")


def _template_files(folder: Path) -> list[Path]:
    """The chat templates in files of their own; where there are any, those of tokenizer_config.json do not count."""
    names = (folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja")))
    return [file for file in names if file.is_file()]


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder; {} where there is none."""
    return read_json(folder / name, TextError) if (folder / name).is_file() else {}


def refuse_unknown_tokens(folder: Path, known: dict[str, int]) -> None:
    """Raises `TextError` for a token that transformers adds from the files beside tokenizer.json, which does not have
    it: prompts would have it as a token for transformers, and as text here.

    Args:
        known: the ids of tokenizer.json, by token.
    """
    for name, place, token, number in _declared(folder):
        if number is None and token not in known:
            what = f"{place} is {token!r}"
        elif number is not None and known.get(token) != number:
            what = f"{place} has {token!r} with id {number}"
        else:
            continue
        raise TextError(
            f"{folder / name}: {what}, and tokenizer.json has "
            f"{'no such token' if token not in known else f'id {known[token]} for it'}. Write the files anew: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )


def _declared(folder: Path) -> list[tuple[str, str, str, int | None]]:
    """(file, key, token, its id where the file gives one) of all tokens that may stand in a prompt or end a turn."""
    settings, special = (read_settings(folder, name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    found: list[tuple[str, str, str, int | None]] = []
    decoder = settings.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and str(number).isdecimal():
            found.append(("tokenizer_config.json", "added_tokens_decoder", content, int(number)))
    for token, number in read_settings(folder, "added_tokens.json").items():
        if isinstance(number, int):
            found.append(("added_tokens.json", "the file", token, number))
    for name, values in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        for key in ("bos_token", "eos_token", "additional_special_tokens", "extra_special_tokens"):
            value = values.get(key)
            for token in value if isinstance(value, list) else [value]:
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str) and content:
                    found.append((name, key, content, None))
    return found
