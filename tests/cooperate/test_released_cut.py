"""The released rule on a predictor that transformers saved, against its description evaluated with torch, text by text.

Reference: the code released with arXiv 2604.14164 (run_tessy.py), as described in its cut rule: the last 200 tokens,
class 1 is style, the prediction at a token is the class of the token after it, the first new token is skipped. Then the
budget, which counts the student's prompt and each turn's text on its own; then the tags that end the thinking.
"""

import collections
import dataclasses
import random
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from tessy_jax.cooperate.host_callback import Host
from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.released import ATTEMPTS, END_TAGS, HostWindow, ReleasedBoundary
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.engine.rows import Rows
from tessy_jax.predictors.checkpoint import Checkpoint
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import vocab
from tests.kit.tiny import qwen3_classifier

WINDOW = 200
BUDGET = 60
TEXT = ("so", "wait,", "the sum", "of", "16", "prime", "Größe", "漢字", "👍", "x+2", "\n\n", "\n", " ", " ", " ", " ")
WHITE = (" ", "\n", "\u3000", "\x1c")
TAGS = ("</think>", "assistantfinal")


@dataclasses.dataclass(frozen=True)
class Case:
    """A turn: the text before it, what it brought, whether that ended with the end of the turn, how often the request
    was in vain before, and what is spent of the budget: the student's prompt, and the thinking.
    """

    before: str
    new: str
    ended: bool
    attempt: int
    prompt: int
    spent: int


class Outcome(NamedTuple):
    kept: str
    switch: bool
    finish: Finish
    tokens: int
    attempt: int


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


def released_cut(
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


def released_rule(case: Case, kept: str, flips: bool, tokenizer: Any) -> Outcome:
    """What becomes of the sample, if the predictor lets this be `kept`."""
    if not case.new.strip():
        failed = case.attempt + 1 == ATTEMPTS
        return Outcome(case.before, False, Finish.BLANK if failed else Finish.NONE, 0, case.attempt + 1)
    tokens = len(tokenizer.encode(kept[len(case.before) :], add_special_tokens=False))
    finish = Finish.NONE
    for tag in TAGS:
        if tag in kept:
            kept, finish = kept[: kept.index(tag)], Finish.END
            break
    if case.prompt + case.spent + tokens >= BUDGET:
        finish = Finish.LENGTH
    return Outcome(kept, flips and finish == Finish.NONE, finish, tokens, 0)


def turns(count: int) -> list[Case]:
    """Texts before a turn, some longer than the window; what the turns brought, some white space only."""
    rng = random.Random(4)
    cases = []
    for _ in range(count):
        before = "".join(rng.choices(TEXT, k=rng.choice([0, 3, 30, 120])))
        new = "".join(rng.choices((*TEXT, *TAGS), [6] * len(TEXT) + [1] * len(TAGS), k=rng.randint(1, 12)))
        if rng.random() < 0.06:
            new = "".join(rng.choices(WHITE, k=rng.randint(1, 4)))
        if rng.random() < 0.1:  # a tag begins in one turn and ends in the next
            before, new = before + "</thi", "nk> so" + new
        spent = rng.choice([0, 20, 30]), rng.choice([0, 0, 25])
        cases.append(Case(before, new, rng.random() < 0.2, rng.randrange(ATTEMPTS), *spent))
    return cases


def state_of(cases: list[Case], role: Role) -> State:
    """The rows of a batch, as far as they are read."""
    rows = Rows(models=(), predictor_vocabs=(), context=8, text_bytes=2048, log=1, seed=0, one_string=True)
    state = rows.empty(len(cases))
    for row, case in enumerate(cases):
        data = (case.before + case.new).encode()
        state.text[row, : len(data)] = np.frombuffer(data, np.uint8)
        state.written[row], state.span_start[row] = len(data), len(case.before.encode())
        state.event[row] = Finish.EOS if case.ended else Finish.NONE
        state.requests.attempt[row], state.think_tokens[row] = case.attempt, case.spent
        state.requests.openings[Role.STUDENT].prompt[row] = case.prompt
    state.role[:], state.phase[:] = role, Phase.THINK
    return state


def outcomes(folder: Path, cases: list[Case], role: Role) -> list[Outcome]:
    """Those of our rule."""
    content = ContentTokenizer.load(folder)
    predictor = Checkpoint.load(folder, threshold=0.5, shift=1, block=128, mesh=None)
    window = HostWindow(Retokenizer(content), Retokenizer(content), END_TAGS, None, WINDOW)
    boundary = ReleasedBoundary(role, window, predictor, BUDGET, Host(None))
    judge = jax.jit(lambda params, state, rows: boundary.judge(params, state, (), rows))
    found = []
    for start in range(0, len(cases), 50):
        group = cases[start : start + 50]
        rows = jnp.ones(len(group), bool)
        state, _, verdict, _ = judge(RoleParams(None, None, predictor.params), state_of(group, role), rows)
        assert bool(verdict.over.all())
        for row, case in enumerate(group):
            kept = (case.before + case.new).encode()[: int(state.kept[row])].decode()
            finish, attempt = Finish(int(verdict.finish[row])), int(state.requests.attempt[row])
            found.append(Outcome(kept, bool(verdict.switch[row]), finish, int(verdict.tokens[row]), attempt))
    return found


def expected(folder: Path, model: Any, cases: list[Case], role: Role) -> list[Outcome]:
    """Those of the released rule."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for start in range(0, len(cases), 50):
        group = cases[start : start + 50]
        theirs = predictions(tokenizer, model, [case.before + case.new for case in group])
        for case, (offsets, classes) in zip(group, theirs, strict=True):
            cut = released_cut(offsets, classes, role == Role.TEACHER, case.before, case.new)
            found.append(released_rule(case, *cut, tokenizer))
    return found


def test_cuts_are_those_of_the_released_rule(tmp_path: Path) -> None:
    folder = vocab.small_plain(tmp_path)
    content = ContentTokenizer.load(folder)
    reference = qwen3_classifier(folder, vocab_size=content.vocab_size, num_hidden_layers=1, seed=2)
    cases = turns(1500)
    seen: collections.Counter[str] = collections.Counter()
    for role in (Role.STUDENT, Role.TEACHER):
        mine = cases[role::2]
        wanted = expected(folder, reference, mine, role)
        for case, theirs, ours in zip(mine, wanted, outcomes(folder, mine, role), strict=True):
            assert ours == theirs, (role, case)
            cut = theirs.kept != case.before + case.new
            seen["blank" if theirs.attempt else theirs.finish.name if theirs.finish else "goes on"] += 1
            seen["cut" if cut else "flip only" if theirs.switch else "neither"] += 1
            seen["longer than the window"] += len(content.encode((case.before + case.new).encode())[0]) >= WINDOW
    assert min(seen.values()) > 50, seen
    assert set(seen) >= {"blank", "END", "LENGTH", "goes on"}


def test_a_tie_is_capability(tmp_path: Path) -> None:
    """As for argmax, which takes the first of two equal scores: the student is cut at once, the teacher never."""
    folder = vocab.small_plain(tmp_path)
    size = ContentTokenizer.load(folder).vocab_size
    reference = qwen3_classifier(folder, vocab_size=size, num_hidden_layers=1, seed=2)
    with torch.no_grad():
        reference.score.weight.zero_()
        reference.score.bias.zero_()
    reference.save_pretrained(folder)
    cases = [Case("so", " the sum of 16 primes", False, 0, 0, 0), Case("", "wait, so", False, 0, 0, 0)]
    for role, kept in ((Role.STUDENT, "so the sum"), (Role.TEACHER, "so the sum of 16 primes")):
        found = outcomes(folder, cases, role)
        assert found == expected(folder, reference, cases, role)
        assert found[0].kept == kept
        assert all(one.switch == (role == Role.STUDENT) for one in found)
