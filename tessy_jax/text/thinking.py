"""How models write their thinking: the strings around it."""

from dataclasses import dataclass, replace
from pathlib import Path

from tessy_jax.text.tokenizer import TextError, read_spec
from tessy_jax.text.words import next_cut


@dataclass(frozen=True)
class Thinking:
    """How a model writes its thinking: `open`, the trace, `before`, `marker`, `after`, the answer.

    If `marker` is a control token of the vocabulary, the end of thinking is that token; otherwise it is found in the
    text. The four strings are the template's language: control strings in them are control tokens.
    """

    open: str = "<think>\n"
    before: str = "\n"
    marker: str = "</think>"
    after: str = "\n\n"

    @property
    def close(self) -> str:
        """What stands between the trace and the answer."""
        return self.before + self.marker + self.after


HARMONY = Thinking("<|channel|>analysis<|message|>", "", "<|end|>", "<|start|>assistant<|channel|>final<|message|>")
"""GPT-OSS: thinking is a message of the analysis channel, and the answer one of the final channel. The message's end is
what ends the thinking: whatever channel the model would open next, the thought before it is complete, and the first
token of the switch decides, so that no span can cut it in two.
"""
FORMS = (Thinking(), HARMONY)
"""All that `thinking_of` chooses from."""

_HARMONY_TOKENS = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"})


def thinking_of(folder: str | Path, **given: str) -> Thinking:
    """How the model of a checkpoint folder writes its thinking: by its control tokens harmony, or else as Qwen3 does;
    with the `given` strings in place of those.
    """
    path = Path(folder) / "tokenizer.json"
    added = read_spec(path).get("added_tokens") if path.is_file() else None
    named = [token.get("content") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    names = {name for name in named if isinstance(name, str)}
    form = HARMONY if names >= _HARMONY_TOKENS else Thinking()
    return replace(form, **given)


def refuse_cut_point(marker: bytes) -> None:
    """A textual marker must lie inside one word, or it would be cut before it is complete."""
    if not marker:
        raise TextError("thinking.marker is empty: give the text that ends the thinking, such as '</think>'.")
    cut = next_cut(marker, 0, (), len(marker))
    if cut is not None:
        raise TextError(
            f"thinking.marker {marker.decode()!r} is not a token of the vocabulary, and words are cut at its byte"
            f" {cut}: use one without a space or newline inside, such as '</think>'."
        )
