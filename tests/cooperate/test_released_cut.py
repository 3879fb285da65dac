"""The released rule on a predictor that transformers saved, against its description evaluated with torch, text by text.

Reference: the code released with arXiv 2604.14164 (run_tessy.py), as described in its cut rule: the last 200 tokens,
class 1 is style, the prediction at a token is the class of the token after it, the first new token is skipped.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.released import HostWindow, ReleasedBoundary
from tessy_jax.cooperate.state import Phase, Role
from tessy_jax.engine.rows import Rows
from tessy_jax.predictors.checkpoint import Checkpoint
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import vocab
from tests.kit.tiny import qwen3_classifier

WINDOW = 200
PIECES = ("so", "wait,", "the sum", "of", "16", "prime", "Größe", "漢字", "👍", "x+2", "\n\n", "\n", " ", " ", " ", " ")


def predictions(tokenizer: Any, model: Any, texts: list[str]) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Of each text: the characters of its last tokens, and the class predicted at each. Padding stands behind, where a
    causal model does not see it.
    """
    encoded = [tokenizer(text, return_offsets_mapping=True, add_special_tokens=False) for text in texts]
    ids = [one.input_ids[-WINDOW:] for one in encoded]
    padded = torch.tensor([row + [0] * (WINDOW - len(row)) for row in ids])
    with torch.no_grad():
        classes = model(padded).logits.argmax(-1).tolist()
    return [
        (one.offset_mapping[-WINDOW:], found[: len(row)]) for one, row, found in zip(encoded, ids, classes, strict=True)
    ]


def released_rule(
    offsets: list[tuple[int, int]], prediction: list[int], teacher: bool, before: str, new: str
) -> tuple[str, bool]:
    """(kept text, whether the role switches)."""
    other = 1 if teacher else 0
    for (start, end), label in zip(offsets, prediction, strict=True):
        if start > len(before) and label == other:
            kept = new[: end - len(before)]
            for char in new[len(kept) :]:
                if char.isspace():
                    break
                kept += char
            return before + kept, True
    return before + new, prediction[-1] == other


def turns(count: int) -> list[tuple[str, str]]:
    """Texts before a turn, some longer than the window, and the turns' texts."""
    rng = random.Random(4)
    texts = []
    for _ in range(count):
        before = "".join(rng.choices(PIECES, k=rng.choice([0, 3, 30, 120])))
        texts.append((before, "".join(rng.choices(PIECES, k=rng.randint(1, 12)))))
    return texts


def test_cuts_are_those_of_the_released_rule(tmp_path: Path) -> None:
    folder = vocab.small_plain(tmp_path)
    content = ContentTokenizer.load(folder)
    reference = qwen3_classifier(folder, vocab_size=content.vocab_size, num_hidden_layers=1, seed=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    predictor = Checkpoint.load(folder, threshold=0.5, shift=1, block=128, mesh=None)
    texts = turns(1000)
    seen = {"cut": 0, "flip only": 0, "neither": 0, "longer than the window": 0}
    for role in (Role.STUDENT, Role.TEACHER):
        window = HostWindow(Retokenizer(content), None, None, WINDOW)
        boundary = ReleasedBoundary(role, window, predictor, 10**6, None)
        judge = jax.jit(lambda params, state, rows, boundary=boundary: boundary.judge(params, state, (), rows))
        mine = texts[role::2]
        for start in range(0, len(mine), 50):
            group = mine[start : start + 50]
            state = Rows.empty(SimpleNamespace(context=8, text_bytes=2048, log=1), len(group))
            for row, (before, new) in enumerate(group):
                data = (before + new).encode()
                state.text[row, : len(data)] = np.frombuffer(data, np.uint8)
                state.written[row], state.span_start[row] = len(data), len(before.encode())
            state.role[:], state.phase[:] = role, Phase.THINK
            judged = judge(RoleParams(None, None, predictor.params), state, jnp.ones(len(group), bool))
            found, switch = judged.state, judged.verdict.switch
            assert bool(judged.verdict.over.all())
            theirs = predictions(tokenizer, reference, [before + new for before, new in group])
            for row, (before, new) in enumerate(group):
                kept, flips = released_rule(*theirs[row], role == Role.TEACHER, before, new)
                assert (int(found.kept[row]), bool(switch[row])) == (len(kept.encode()), flips), (role, before, new)
                seen["cut" if kept != before + new else "flip only" if flips else "neither"] += 1
                seen["longer than the window"] += len(theirs[row][0]) == WINDOW
    print(seen)
    assert min(seen.values()) > 50, seen
