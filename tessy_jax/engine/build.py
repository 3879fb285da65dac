"""Puts an engine together from two models, two predictors and the meaning of a trace."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from jax.sharding import Mesh

from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.config.synthesize import PaperCooperation, ReleasedCodeCooperation, ScheduleName
from tessy_jax.cooperate.decode import Generator
from tessy_jax.cooperate.handover import HandOver
from tessy_jax.cooperate.host_callback import Host, HostTokenizer
from tessy_jax.cooperate.judge import Boundary, PaperBoundary
from tessy_jax.cooperate.open_word import OpenWord
from tessy_jax.cooperate.released import END_TAGS, HostWindow, ReleasedBoundary
from tessy_jax.cooperate.requests import OneString, RequestGenerator
from tessy_jax.cooperate.scorers import WORD_TOKENS, ProbeScorer, TextScorer, WordScorer
from tessy_jax.cooperate.state import Role
from tessy_jax.cooperate.stream import FullestPass, PassShape, StreamSchedule
from tessy_jax.cooperate.turn import RollbackSchedule, Schedule, Turn
from tessy_jax.cooperate.words_device import DeviceWords
from tessy_jax.cooperate.words_host import MAX_WORDS, PENDING, HostWords
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel, same_vocab
from tessy_jax.engine.rows import AS_NAMED, NOTHING_MORE, Keeps, Seats
from tessy_jax.engine.sizes import ROLLBACK_DEPTH, pass_bytes, reads_alike, shards
from tessy_jax.errors import ConfigError
from tessy_jax.predictors.base import Predictor, reads_hidden_states, reads_text
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.retokenize import Retokenizer


def build_engine(
    models: Sequence[LanguageModel],
    predictors: Sequence[Predictor],
    cooperation: Budgets,
    sizes: EngineConfig,
    seed: int,
    mesh: Mesh | None = None,
    depth: int = ROLLBACK_DEPTH,
    seats: Seats = AS_NAMED,
    schedule: ScheduleName | None = None,
    keeps: Keeps = NOTHING_MORE,
) -> Engine:
    """An engine for the student and the teacher, in this order, and their predictors.

    Args:
        cooperation: the preset with its budgets. depth: deepest rollback that the caches' rings hold, in tokens.
        seats: whose models they are, where another's than the role says.
        schedule: None: that of the preset. keeps: what records hold besides the traces.

    Raises:
        ConfigError: the preset cannot do with such a predictor, or the budgets alone fill the context.
    """
    plan = build_schedule(models, predictors, cooperation, sizes, mesh, depth, schedule)
    return Engine(plan, tuple(models), tuple(predictors), sizes, cooperation, seed, mesh, depth, seats, keeps)


def build_schedule(
    models: Sequence[LanguageModel],
    predictors: Sequence[Predictor],
    cooperation: Budgets,
    sizes: EngineConfig,
    mesh: Mesh | None = None,
    depth: int = ROLLBACK_DEPTH,
    schedule: ScheduleName | None = None,
) -> Schedule:
    """What an engine runs; see `build_engine`. It reads no parameter: shapes will do."""
    of = _Parts(cooperation, sizes, Host(mesh), depth)
    k = tokens_per_turn(cooperation)

    def turn(role: Role) -> Turn:
        model, predictor = models[role], predictors[role]
        return Turn(
            role=role,
            hand_over=of.hand_over(role, models),
            generate=of.generator(role, model, predictor, k[role]),
            boundary=of.boundary(role, models, predictor, k[role]),
            reject_unfinished=cooperation.on_budget == "reject",
            chunk=sizes.chunk,
        )

    turns = turn(Role.STUDENT), turn(Role.TEACHER)
    if schedule == "rollback" or isinstance(cooperation, ReleasedCodeCooperation):
        return RollbackSchedule(turns)
    ways = shards(mesh)
    shapes = pass_shapes(sizes.batch, sizes.chunk, ways)
    policy = fullest_pass(shapes, [pass_bytes(model, sizes.batch) for model in models])
    return StreamSchedule(turns, shapes, policy, ways, max(1, sizes.batch // VISIT), sum(k))


PLACES_COST = 1 / 8
"""What as many places as there are rows add to the cost of a pass, which is 1 without. With 1/2, about what two CPU
cores would say, small passes are taken too often: simulated (12 rows, spans of 5 and 16 tokens, two dropped behind
each), 0.27 passes for a kept token instead of 0.22.
"""

MODEL_COST = 1 / 2
"""The power of what a model's pass costs by which it counts. With 1 the dear model would be left waiting where a cheap
one could go on with little, which pays only where the cheap one's spans are short (docs/scale.md: Which pass is next).
"""


def fullest_pass(shapes: Sequence[PassShape], model_costs: Sequence[float]) -> FullestPass:
    """The policy for passes of these shapes; `model_costs`: by role, of a pass of one token a row, in any unit."""
    batch = shapes[0].rows
    return FullestPass(
        costs=tuple(
            cost**MODEL_COST * (1 + PLACES_COST * shape.rows * shape.width / batch)
            for cost in model_costs
            for shape in shapes
        ),
        groups=tuple(2 * role + (shape.width > 1) for role in Role for shape in shapes),
    )


VISIT = 8
"""The host is asked when one row in so many has something for it."""


def pass_shapes(batch: int, chunk: int, ways: int) -> tuple[PassShape, ...]:
    """The passes that are compiled for a model: one token of all rows, and `chunk` tokens of half of them; each of the
    batch's `ways` parts has its share, and one row at least. (One token of half would save two CPU cores 4 % by
    simulation, for a program a quarter larger.)
    """
    return PassShape(batch, 1), PassShape(ways * max(1, batch // ways // 2), chunk)


def tokens_per_turn(cooperation: Budgets) -> tuple[int, int]:
    """The student's k and the teacher's."""
    if isinstance(cooperation, PaperCooperation):
        return cooperation.k, cooperation.k
    assert isinstance(cooperation, ReleasedCodeCooperation)
    return cooperation.k_student, cooperation.k_teacher


@dataclass(frozen=True)
class _Parts:
    """Makes the rule of a preset for each role."""

    cooperation: Budgets
    sizes: EngineConfig
    host: Host
    depth: int

    @property
    def repetition(self) -> Repetition | None:
        loop = self.cooperation.loop
        return None if loop is None else Repetition(loop.repeats, loop.min_bytes)

    def hand_over(self, role: Role, models: Sequence[LanguageModel]) -> HandOver:
        model = models[role]
        hand_over = HandOver(
            role=role,
            retokenize=model.host_tokenizer.step,
            close=model.close if role == Role.STUDENT else None,
            edit_shape=model.host_tokenizer.shape,
            same_vocab=same_vocab(*(m.chat.tokenizer for m in models)),
            marker=models[Role.STUDENT].chat.close_text,
            depth=self.depth,
            host=self.host,
        )
        if not isinstance(self.cooperation, ReleasedCodeCooperation):
            return hand_over
        string = OneString(model.host_tokenizer.step, model.close)  # its tokens are of this prompt, not of the other's
        close = string.close if role == Role.STUDENT else None
        return dataclasses.replace(hand_over, retokenize=string.retokenize, close=close, same_vocab=False)

    def generator(self, role: Role, model: LanguageModel, predictor: Predictor, k: int) -> Generator:
        generator = Generator(
            role=role,
            graph=model.graph,
            sampling=model.sampling,
            k=k,
            predictor=predictor if reads_hidden_states(predictor) else None,
            max_answer_tokens=self.cooperation.max_answer_tokens,
        )
        if not isinstance(self.cooperation, ReleasedCodeCooperation):
            return generator
        limit = self.cooperation.max_think_tokens + self.cooperation.max_answer_tokens
        return RequestGenerator(**vars(generator), max_model_len=limit)

    def boundary(self, role: Role, models: Sequence[LanguageModel], predictor: Predictor, k: int) -> Boundary:
        if isinstance(self.cooperation, ReleasedCodeCooperation):
            return self._released(self.cooperation, role, models, predictor)
        model = models[role]
        limits = (model.chat.textual_marker, self.repetition, self.cooperation.max_think_tokens)
        tokenizer, scorer = None, self._scorer(role, predictor, k)
        if reads_text(predictor):
            tokenizer = HostTokenizer(Retokenizer(predictor.tokenizer))
        device_words = None
        if reads_alike(model, predictor) and (model.canonical is not None or not reads_text(predictor)):
            most = min(k + PENDING, WORD_TOKENS - PENDING)
            device_words = DeviceWords(role, *limits, reads_text(predictor), MAX_WORDS, most)
        open_word = OpenWord(role, limits[0], limits[2])
        return PaperBoundary(role, HostWords(tokenizer, *limits), device_words, scorer, open_word, self.host, k)

    def _scorer(self, role: Role, predictor: Predictor, k: int) -> WordScorer:
        if reads_text(predictor):
            return TextScorer(role, predictor, self.sizes.chunk, self.depth)
        assert reads_hidden_states(predictor)
        return ProbeScorer(role, predictor, k + PENDING)

    def _released(
        self, cooperation: ReleasedCodeCooperation, role: Role, models: Sequence[LanguageModel], predictor: Predictor
    ) -> ReleasedBoundary:
        if not reads_text(predictor):
            raise ConfigError(
                f"predictors.{role.name.lower()}: a probe predicts what its model writes itself, and preset "
                "released_code judges the text anew at every turn; use preset paper"
            )
        marker = models[role].chat.textual_marker
        tags = END_TAGS if marker is None or marker in END_TAGS else (*END_TAGS, marker)
        student = models[Role.STUDENT].retokenizer
        window = HostWindow(Retokenizer(predictor.tokenizer), student, tags, self.repetition, cooperation.window)
        return ReleasedBoundary(role, window, predictor, cooperation.max_think_tokens, self.host)
