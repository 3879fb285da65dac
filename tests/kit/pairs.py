"""Pairs of tiny random models for the cooperative tests, as our engine and as the oracle sees them."""

import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jax.sharding import Mesh
from transformers import AutoTokenizer

from tessy_jax import models
from tessy_jax.config.sections import Budgets, EngineConfig, RepetitionConfig
from tessy_jax.config.synthesize import PaperCooperation, ReleasedCodeCooperation, ScheduleName
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.data.records import Problem, Record
from tessy_jax.engine.build import build_engine
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.rows import NOTHING_MORE, Job, Keeps
from tessy_jax.predictors.base import Predictor
from tessy_jax.predictors.checkpoint import Checkpoint
from tessy_jax.predictors.probe import Probe, ProbeParams
from tessy_jax.text.chat import Chat, Thinking
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import vocab
from tests.kit.oracle import Author, Oracle, fingerprint, last_token
from tests.kit.oracle_released import Classifier, ReleasedOracle
from tests.kit.tiny import deepseek_v3, gemma3, gpt_oss, llama, qwen3, qwen3_classifier, qwen3_moe

PLAIN = "{% for m in messages %}{{ m.content }}\n{% endfor %}Thoughts:\n"
#: Rows of the embeddings of Qwen3 and DeepSeek-R1, by the tokens of their vocabularies.
REAL_ROWS = {151_669: 151_936, 128_815: 129_280}
TWO_LAYERS = {"num_hidden_layers": 2}
"""One of each kind, for families that have two: a loop's programs hold each layer some ten times. tests/models has
deeper ones.
"""

PROBLEMS = [
    Problem(id=f"p{i}", messages=[{"role": "user", "content": text}])
    for i, text in enumerate(
        [
            "What is 2 + 3?",
            "Sum of odd numbers.",
            "Is 91 prime?\n\nSay why.",
            "def f(x):\n    return x",
            "Hi",
            "Größe <think>?",
        ]
    )
]


@dataclasses.dataclass
class Pair:
    """Folders and torch models of a student, a teacher and their predictors, with all that decides a trace."""

    chats: tuple[Chat, Chat]
    folders: tuple[Path, Path]
    torch_models: tuple[torch.nn.Module, torch.nn.Module]
    judges: tuple[Path, Path]
    torch_judges: tuple[torch.nn.Module, torch.nn.Module]
    judge_chats: tuple[object, object]
    samplings: tuple[Sampling, Sampling]
    cooperation: PaperCooperation
    thresholds: tuple[float, float] = (0.4, 0.6)
    shifts: tuple[int, int] = (1, 0)
    block: int = 16
    seed: int = 5

    def engine(
        self,
        *,
        batch: int = 4,
        mesh: Mesh | None = None,
        cooperation: Budgets | None = None,
        probes: bool = False,
        predictors: Sequence[Predictor] | None = None,
        schedule: ScheduleName | None = None,
        keeps: Keeps = NOTHING_MORE,
        **sizes: object,
    ) -> Engine:
        """The pair in the loop, with its classifiers; if `probes`, with probes on its models; or with `predictors`."""
        sizes = {"context": 384, "prompt_buckets": (32,), "chunk": 8, "turns_per_dispatch": 4} | sizes
        depth = sizes.pop("depth", 128)
        config = EngineConfig(batch=batch, dtype="float32", **sizes)
        lms = [
            LanguageModel.of(models.load(folder, mesh=mesh), chat, sampling)
            for folder, chat, sampling in zip(self.folders, self.chats, self.samplings, strict=True)
        ]
        if probes:
            predictors = self.probes()
        elif predictors is None:
            predictors = [
                Checkpoint.load(folder, threshold=t, shift=s, block=self.block, mesh=mesh)
                for folder, t, s in zip(self.judges, self.thresholds, self.shifts, strict=True)
            ]
        trace = cooperation or self.cooperation
        more = {"schedule": schedule, "keeps": keeps}
        return build_engine(lms, predictors, trace, config, self.seed, mesh, depth, **more)

    def probes(self) -> tuple[Probe, ...]:
        """A random probe after the first layer of each writer."""

        def probe(role: int) -> Probe:
            rng = np.random.default_rng(role)
            model, chat = self.torch_models[role], self.chats[role]
            vectors = (
                rng.normal(size=size).astype(np.float32) for size in (model.config.hidden_size, _rows(chat.tokenizer))
            )
            return Probe(
                chat.tokenizer, ProbeParams(next(vectors), np.float32(0.1), next(vectors)), 0, self.thresholds[role]
            )

        return probe(0), probe(1)

    def probe_oracle(self) -> Oracle:
        def style(role: int) -> Callable[[list[int], int], float]:
            model, probe = self.torch_models[role], self.probes()[role].params

            def p(ids: list[int], token: int) -> float:
                logit = last_token(model, ids).states @ probe.weight + probe.bias + probe.token_bias[token]
                return float(1 / (1 + np.exp(-logit)))

            return p

        return dataclasses.replace(self.oracle(), probes=(style(0), style(1)))

    def oracle(self) -> Oracle:
        loop = self.cooperation.loop
        return Oracle(
            authors=tuple(
                Author(m, c, s) for m, c, s in zip(self.torch_models, self.chats, self.samplings, strict=True)
            ),
            encode_for_judge=tuple(t.encode for t in self.judge_chats),
            style=tuple(
                lambda ids, m=m, s=s: torch_style(m, ids, s, self.block)
                for m, s in zip(self.torch_judges, self.shifts, strict=True)
            ),
            thresholds=self.thresholds,
            max_think_tokens=self.cooperation.max_think_tokens,
            max_answer_tokens=self.cooperation.max_answer_tokens,
            loops=Repetition(loop.repeats, loop.min_bytes).loops if loop else None,
            seed=self.seed,
        )

    def released_oracle(self, cooperation: ReleasedCodeCooperation) -> ReleasedOracle:
        classifiers = tuple(
            Classifier(AutoTokenizer.from_pretrained(folder), lambda ids, m=m: torch_style(m, ids, 0, 10**6), threshold)
            for folder, m, threshold in zip(self.judges, self.torch_judges, self.thresholds, strict=True)
        )
        return ReleasedOracle(
            self.oracle(),
            classifiers,
            step_size=(cooperation.k_student, cooperation.k_teacher),
            classifier_len=cooperation.window,
            max_new_tokens=cooperation.max_think_tokens,
            llm_max_model_len=cooperation.max_think_tokens + cooperation.max_answer_tokens,
            close=cooperation.on_budget == "close",
        )


_STYLES: dict[tuple[bytes, tuple[int, ...], int], np.ndarray] = {}


def torch_style(model: torch.nn.Module, ids: list[int], shift: int, block: int) -> np.ndarray:
    """P(style) for each token under context blocks, by one full forward pass with an explicit mask; nan where none
    exists.
    """
    key = (fingerprint(model), tuple(ids), block)
    if key not in _STYLES:
        _STYLES[key] = _torch_style(model, ids, block)
    p = _STYLES[key]
    return p.copy() if shift == 0 else np.concatenate([[np.nan], p[:-1]])


def _torch_style(model: torch.nn.Module, ids: list[int], block: int) -> np.ndarray:
    n = len(ids)
    q, k = np.arange(n)[:, None], np.arange(n)[None, :]
    visible = (k <= q) & (k >= np.maximum(0, (q // block - 1) * block))
    mask = torch.tensor(np.where(visible, 0.0, torch.finfo(torch.float32).min), dtype=torch.float32)[None, None]
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=mask).logits[0].softmax(-1)[:, 1].numpy()


def run(engine: Engine, problems: list[Problem], samples: int = 1) -> dict[tuple[str, int], Record]:
    jobs = iter([Job(p, i) for p in problems for i in range(samples)])
    out: dict[tuple[str, int], Record] = {}
    for dispatch in engine.run(jobs):
        assert not dispatch.rejected, dispatch.rejected
        for record in dispatch.finished:
            out[record.problem.id, record.sample_index] = record
    return out


def same(record: Record, trace: object, pair: Pair) -> None:
    """The record's content, its finish and the author of every character are the oracle's."""
    opening = pair.chats[0].thinking.open
    text = trace.text.decode(errors="ignore")
    assert record.content == opening + text
    assert (record.finish.think, record.finish.answer) == trace.finish
    ours = authors((s.by == "teacher", s.phase, s.start - len(opening), s.end - len(opening)) for s in record.spans)
    chars = [
        (by == 1, phase, len(trace.text[:a].decode()), len(trace.text[:b].decode(errors="ignore")))
        for by, phase, a, b in trace.spans
    ]
    assert ours == authors(iter(chars))


def authors(spans: Iterator[tuple[bool, str, int, int]]) -> dict[int, tuple[bool, str]]:
    return {at: (by, phase) for by, phase, start, end in spans for at in range(start, end)}


def problem(id_: str) -> Problem:
    return next(p for p in PROBLEMS if p.id == id_)


def one_text(engine: Engine) -> int:
    """Between two dispatches each writer's canonical tokens are the encoding of the decided text, and spell it. Gives
    how many were compared.
    """
    seen = 0
    for b, slot in enumerate(engine.slots):
        if slot is None or engine.host.think_end[b] >= 0:
            continue
        for model, stream in zip(engine.models, engine.host.streams, strict=True):
            text = engine.host.text[b, : int(stream.covered[b])].tobytes()
            prompt = len(model.prompt_ids(slot.job.problem.messages))
            tokens = stream.tokens[b, prompt : int(stream.base[b])].tolist()
            assert tokens == model.chat.tokenizer.encode(text)[0]
            spelled = b"".join(_pieces(model.chat.tokenizer)[t] for t in tokens)
            assert spelled in (text, unicodedata.normalize("NFC", text.decode()).encode())
            seen += len(text) > 0
    return seen


@functools.cache
def _pieces(tokenizer: ContentTokenizer) -> list[bytes]:
    return tokenizer.token_bytes()


def different_vocabularies(root: Path, **changes: object) -> Pair:
    """A Llama student (ChatML, NFC, `</think>` token), a Gemma 3 teacher (SentencePiece-like), Qwen3 and GPT-2-like
    predictors.
    """
    student, teacher = vocab.small_chatml(root / "s"), vocab.sentencepiece(root / "t")
    judge_s, judge_t = vocab.small_plain(root / "bs"), vocab.small_chatml(root / "bt")
    chats = (Chat.load(student), Chat.load(teacher, template=PLAIN, thinking=Thinking(marker="</end>")))
    return _pair(root, chats, (judge_s, judge_t), llama, gemma3, changes)


def one_vocabulary(root: Path, **changes: object) -> Pair:
    """Everyone reads the same vocabulary."""
    folders = [vocab.small_chatml(root / name) for name in ("s", "t", "bs", "bt")]
    return _pair(root, (Chat.load(folders[0]), Chat.load(folders[1])), (folders[2], folders[3]), qwen3, llama, changes)


def real_vocabularies(root: Path, **changes: object) -> Pair:
    """A Qwen3 student and a GPT-OSS teacher with their own vocabularies, whole and padded as in the real models. The
    teacher often ends its message, opens another channel or ends its turn.
    """
    folders = vocab.qwen3(root / "s"), vocab.o200k(root / "t")
    chats = Chat.load(folders[0]), Chat.load(folders[1], options={"reasoning_effort": "high"}, date="2025-10-31")
    judges = vocab.small_plain(root / "bs"), vocab.small_chatml(root / "bt")
    student = functools.partial(qwen3, tie_word_embeddings=False)
    pair = _pair(root, chats, judges, student, gpt_oss, changes, (151_936, 201_088), {})
    teacher = pair.torch_models[1]
    with torch.no_grad():
        for token in (*chats[1].end_ids, *chats[1].channel_ids, *chats[1].eos_ids):
            teacher.lm_head.weight[token] *= 2
    teacher.save_pretrained(root / "t")
    return pair


def deepseek_and_qwen3(root: Path, **changes: object) -> Pair:
    """R1's architecture teaches Qwen3's; the real vocabularies."""
    return _real(root, vocab.r1(root / "t"), deepseek_v3, changes)


def experts_and_qwen3(root: Path, **changes: object) -> Pair:
    """Qwen3 with experts teaches Qwen3, in their real vocabulary."""
    return _real(root, vocab.qwen3(root / "t"), qwen3_moe, changes)


def _real(root: Path, teacher: Path, make: object, changes: dict) -> Pair:
    folders = [vocab.qwen3(root / name) for name in ("s", "bs", "bt")]
    return _pair(root, (Chat.load(folders[0]), Chat.load(teacher)), (folders[1], folders[2]), qwen3, make, changes)


def _pair(
    root: Path,
    chats: tuple[Chat, Chat],
    judges: tuple[Path, Path],
    student: object,
    teacher: object,
    changes: dict,
    rows: tuple[int, int] | None = None,
    layers: dict = TWO_LAYERS,
) -> Pair:
    rows = rows or (_rows(chats[0].tokenizer), _rows(chats[1].tokenizer))
    judge_tokenizers = tuple(ContentTokenizer.load(j) for j in judges)
    values = {
        "chats": chats,
        "folders": (root / "s", root / "t"),
        "torch_models": (
            student(root / "s", seed=1, vocab_size=rows[0], **layers),
            teacher(root / "t", seed=2, vocab_size=rows[1], **layers),
        ),
        "judges": judges,
        "torch_judges": tuple(
            qwen3_classifier(j, seed=3 + i, vocab_size=_rows(t), num_hidden_layers=1)
            for i, (j, t) in enumerate(zip(judges, judge_tokenizers, strict=True))
        ),
        "judge_chats": judge_tokenizers,
        "samplings": (Sampling(0.8, 20, 0.95, 0.01), Sampling(1.0, 0, 0.9, 0.0)),
        "cooperation": PaperCooperation(
            preset="paper",
            k=7,
            max_think_tokens=60,
            max_answer_tokens=12,
            loop=RepetitionConfig(repeats=8, min_bytes=64),
        ),
    }
    return Pair(**values | changes)


def _rows(tokenizer: ContentTokenizer) -> int:
    """Rows of the embedding: the checkpoint's for real vocabularies, else a few more than tokens; always an even
    number.
    """
    return REAL_ROWS.get(tokenizer.vocab_size, (tokenizer.vocab_size + 4) // 2 * 2)
