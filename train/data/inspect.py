"""A batch as coloured text: what is trained, who wrote it, and where one document ends and the next begins."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tessy_jax.text.chat import Chat
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.data.examples import PARTS

_COLOURS = ("dim", "cyan", "yellow", "green", "blue")
"""By part; those of authors as in `console.show_trace`."""
_LETTERS = ("C", "S", "T", "A", "X")
_UNTRAINED = "strike"


def inspect(batch: Batch, chat: Chat, console: Console) -> None:
    """Prints every row of a batch, token by token, with a legend and counts.

    Each token is shown with what it is and its weight as a target; text of an author that has weight 0 is struck
    through. Without colours, parts stand in brackets with a letter, and ! marks weight 0.
    """
    arrays = {name: np.asarray(values).reshape(-1, values.shape[-1]) for name, values in vars(batch).items()}
    first = arrays["positions"] <= 0  # a document's first token is no target, nor is padding
    # Parts and weights stand where their token is predicted, one place earlier.
    parts, weights = (np.where(first, 0, np.roll(arrays[name], 1, axis=1)) for name in ("parts", "weights"))
    console.print(_legend(console), soft_wrap=True)
    texts = _texts(chat, int(arrays["tokens"].max()) + 1)
    for r, (tokens, segments) in enumerate(zip(arrays["tokens"], arrays["segments"], strict=True)):
        used = int((segments > 0).sum())
        console.rule(f"row {r}: {used} of {len(tokens)} tokens, {segments.max()} documents", style="bold")
        for segment in range(1, int(segments.max()) + 1):
            here = segments == segment
            trained = weights[r][here]
            console.rule(
                f"document {segment}: {here.sum()} tokens, {(trained > 0).sum()} trained", style="magenta", align="left"
            )
            pieces = _pieces(tokens[here], parts[r][here], trained, texts)
            text = Text.assemble(*(_styled(part, weight, text, console) for part, weight, text in pieces))
            console.print(text, soft_wrap=True)
    console.print(_counts(arrays["segments"] > 0, parts, weights))


def _texts(chat: Chat, size: int) -> list[bytes]:
    """The bytes of every token, control tokens by their name."""
    texts = chat.tokenizer.token_bytes()
    texts += [b""] * (size - len(texts))
    for name, token in chat.tokenizer.control.items():
        texts[token] = name.encode()
    return texts


def _pieces(
    tokens: np.ndarray, parts: np.ndarray, weights: np.ndarray, texts: list[bytes]
) -> Iterator[tuple[int, float, str]]:
    """Runs of tokens of one part and weight."""
    rows = zip(parts.tolist(), weights.tolist(), tokens.tolist(), strict=True)
    for (part, weight), run in groupby(rows, key=lambda row: row[:2]):
        yield part, weight, b"".join(texts[token] for *_, token in run).decode("utf-8", "replace")


def _styled(part: int, weight: float, text: str, console: Console) -> Text:
    text = text.replace("\x1b", "␛")  # text that cannot command the terminal
    masked = part > 0 and weight == 0
    if console.color_system is None:
        return Text(f"⟦{_LETTERS[part]}{'!' if masked else ''} {text}⟧")
    return Text(text, f"{_COLOURS[part]} {_UNTRAINED}" if masked else _COLOURS[part])


def _legend(console: Console) -> Text:
    names = [_styled(part, 1.0, name, console) for part, name in enumerate(PARTS)]
    return Text("  ").join([*names, _styled(len(PARTS) - 1, 0.0, "weight 0", console)])


def _counts(used: np.ndarray, parts: np.ndarray, weights: np.ndarray) -> Table:
    table = Table("part", "tokens", "trained", "sum of weights", title="this batch")
    for part, name in enumerate(PARTS):
        here = used & (parts == part)
        numbers = (here.sum(), (weights[here] > 0).sum(), weights[here].sum())
        table.add_row(name, *(f"{number:g}" for number in numbers))
    table.add_row("padding", f"{(~used).sum()} ({(~used).mean():.1%})", "0", "0")
    return table
