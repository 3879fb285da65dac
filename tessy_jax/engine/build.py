"""Puts an engine together from two voices, two predictors and the meaning of a trace."""

from collections.abc import Sequence

from jax.sharding import Mesh

from tessy_jax.config.sections import Budgets
from tessy_jax.config.synthesize import PaperCooperation, ReleasedCodeCooperation
from tessy_jax.cooperate.host_callback import HostTokenizer
from tessy_jax.cooperate.judge import PaperBoundary
from tessy_jax.cooperate.released import ReleasedBoundary, WindowReader
from tessy_jax.cooperate.scorers import WORD_TOKENS, ProbeScorer, TextScorer
from tessy_jax.cooperate.state import Role
from tessy_jax.cooperate.turn import Boundary, Turn
from tessy_jax.cooperate.words_device import DeviceWords
from tessy_jax.cooperate.words_host import MAX_WORDS, PENDING, HostWords
from tessy_jax.engine.engine import Engine, Settings, reads_alike
from tessy_jax.engine.language_model import LanguageModel, shared
from tessy_jax.errors import ConfigError
from tessy_jax.predictors.base import Predictor
from tessy_jax.predictors.probe import Probe
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.retokenize import Retokenizer


def build_engine(
    voices: Sequence[LanguageModel],
    predictors: Sequence[Predictor | Probe],
    cooperation: Budgets,
    settings: Settings,
    seed: int,
    mesh: Mesh | None = None,
) -> Engine:
    """An engine for the student and the teacher, in this order, and their predictors."""
    turns = build_turns(voices, predictors, cooperation, settings, mesh)
    return Engine(turns, tuple(voices), tuple(predictors), settings, cooperation, seed, mesh)


def build_turns(
    voices: Sequence[LanguageModel],
    predictors: Sequence[Predictor | Probe],
    cooperation: Budgets,
    settings: Settings,
    mesh: Mesh | None = None,
) -> tuple[Turn, Turn]:
    """What an engine runs: the student's and the teacher's turn. It reads no parameter: shapes will do."""
    tokens = _tokens_per_turn(cooperation)

    def turn(role: Role) -> Turn:
        voice = voices[role]
        return Turn(
            role=role,
            graph=voice.graph,
            sampling=voice.sampling,
            tokens=tokens[role],
            boundary=_boundary(role, voice, predictors[role], cooperation, settings, tokens[role], mesh),
            probe=probe if isinstance(probe := predictors[role], Probe) else None,
            step=voice.scribe.step,
            close=voice.close if role == Role.STUDENT else None,
            shape=voice.scribe.shape,
            shared=shared(*(v.chat.tokenizer for v in voices)),
            marker=voices[Role.STUDENT].chat.close_text,
            max_answer_tokens=cooperation.max_answer_tokens,
            reject_unfinished=cooperation.on_budget == "reject",
            chunk=settings.chunk,
            depth=settings.depth,
            mesh=mesh,
        )

    return turn(Role.STUDENT), turn(Role.TEACHER)


def _tokens_per_turn(cooperation: Budgets) -> tuple[int, int]:
    if isinstance(cooperation, PaperCooperation):
        return cooperation.k, cooperation.k
    assert isinstance(cooperation, ReleasedCodeCooperation)
    return cooperation.k_student, cooperation.k_teacher


def _boundary(
    role: Role,
    voice: LanguageModel,
    predictor: Predictor | Probe,
    cooperation: Budgets,
    settings: Settings,
    tokens: int,
    mesh: Mesh | None,
) -> Boundary:
    """The rule of the preset, over this role's predictor."""
    loop = None if cooperation.loop is None else Repetition(cooperation.loop.repeats, cooperation.loop.min_bytes)
    marker = voice.chat.textual_marker
    plain = None
    if reads_alike(voice, predictor) and voice.canonical is not None:
        most = min(tokens + PENDING, WORD_TOKENS - PENDING)
        own = not isinstance(predictor, Probe)
        plain = DeviceWords(role, marker, loop, cooperation.max_think_tokens, own, MAX_WORDS, most)
    if isinstance(predictor, Probe):
        if not isinstance(cooperation, PaperCooperation):
            raise ConfigError(
                f"predictors.{role.name.lower()}: a probe predicts what its model writes itself, and preset "
                "released_code judges the text anew at every turn; use preset paper"
            )
        reader = HostWords(None, marker, loop, cooperation.max_think_tokens)
        return PaperBoundary(role, reader, plain, ProbeScorer(role, predictor, tokens + PENDING), mesh, tokens)
    if isinstance(cooperation, ReleasedCodeCooperation):
        window = WindowReader(Retokenizer(predictor.tokenizer), marker, loop, cooperation.window)
        return ReleasedBoundary(role, window, predictor, cooperation.max_think_tokens, mesh)
    reader = HostWords(HostTokenizer(Retokenizer(predictor.tokenizer)), marker, loop, cooperation.max_think_tokens)
    evidence = TextScorer(role, predictor, settings.chunk, settings.depth)
    return PaperBoundary(role, reader, plain, evidence, mesh, tokens)
