"""A chat template as a manifest names it: by its hash, which is known before any tokenizer is opened."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tessy_jax.text.files import read_text
from tessy_jax.text.reference import read_settings
from tessy_jax.text.thinking import FORMS, Thinking
from tessy_jax.text.tokenizer import TextError


def hash_template(template: str, thinking: Thinking, options: Mapping[str, Any]) -> str:
    """SHA-256 of a template, its variables and how thinking is written, in hex."""
    more = [options] if options else []
    return hashlib.sha256(json.dumps([template, asdict(thinking), *more]).encode()).hexdigest()


def dated(template: str, date: str | None) -> str:
    """The template that writes this date; a macro takes the place of transformers' function. None: as it is."""
    if date is None:
        return template
    return f"{{%- macro strftime_now(form) -%}}{{{{ {json.dumps(date)} }}}}{{%- endmacro -%}}{template}"


def possible_hashes(
    folder: Path, thinking: Mapping[str, str], *, template: str | None, options: Mapping[str, Any], date: str | None
) -> set[str]:
    """What `Chat.template_hash` can be with these settings, whichever tokenizer the folder has; none is opened.

    Of a hash in here that was made with the files that the folder has now, all is known: it is the one that the chat
    would have again. Empty where only transformers can say what the template is.

    Args:
        thinking: the strings that the configuration gives, as for `thinking_of`.
        template, options, date: as for `Chat.load`.
    """
    if template is None:
        template = _stored(folder)
    if template is None:
        return set()
    return {hash_template(dated(template, date), replace(form, **thinking), options) for form in FORMS}


def _stored(folder: Path) -> str | None:
    """The folder's chat template; None where there is none, or several."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja", TextError)
    found = read_settings(folder, "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else None
