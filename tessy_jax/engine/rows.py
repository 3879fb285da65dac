"""Rows between host and device: what a slot holds, as a `RowState`; a finished row, as a `Record`."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from tessy_jax.cooperate.sampling import RowSettings, row_key
from tessy_jax.cooperate.state import DroppedBytes, Finish, Opening, Phase, Requests, Role, State, Stream, WordScores
from tessy_jax.data.records import Author, DroppedText, Problem, Record, RowState, Span, TokenCounts, WordScore
from tessy_jax.data.records import FinishReason as Ending
from tessy_jax.data.records import Phase as Writing
from tessy_jax.engine.language_model import LanguageModel, Prompt
from tessy_jax.engine.request import GenerationRequest, PairRequest, RequestOutput
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text.thinking import Thinking

NAMES: tuple[Author, Author] = ("student", "teacher")
"""Authors by `Role`."""


@dataclasses.dataclass(frozen=True)
class Seats:
    """Whose models play the two roles of the loop: the first role ends the thinking and writes the answer.

    Attributes:
        authors: by `Role`, whose model it is; records and journals name these.
        first: who begins.
        form: how records write thinking; None: as the model of the first role does.
    """

    authors: tuple[Author, Author] = NAMES
    first: Author = "student"
    form: Thinking | None = None


AS_NAMED = Seats()
"""The student and the teacher play their own roles."""


@dataclasses.dataclass(frozen=True)
class Keeps:
    """What a run keeps besides the traces: the text that was dropped, and what predictors said of words (`scores`)."""

    dropped: bool = False
    scores: bool = False


NOTHING_MORE = Keeps()
"""The traces alone."""


@dataclasses.dataclass(frozen=True)
class Past:
    """What has become of a row so far, in bytes: finished spans, and what the run keeps besides."""

    spans: tuple[Span, ...] = ()
    dropped: tuple[DroppedText, ...] = ()
    scores: tuple[WordScore, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """One sample of one problem, new or taken up again where the journal left it.

    Attributes:
        request: of a job whose row is told as it grows, and is in no record and no journal; of an engine whose rows
            have settings of their own a `GenerationRequest`.
    """

    problem: Problem
    sample_index: int
    state: RowState | None = None
    request: GenerationRequest | PairRequest | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Unique among the jobs of a run."""
        return self.problem.id, self.sample_index


@dataclasses.dataclass(frozen=True)
class Rows:
    """Builds and reads the rows of a batch. Arrays here are NumPy and hold this process's slots only.

    Attributes:
      models: the student and the teacher.
      predictor_vocabs: the vocabularies that the two predictors read, by role; None: it reads no text.
      context: tokens per stream. text_bytes: bytes of text per row. log: spans that fit one dispatch.
      one_string: whether prompt and text are tokenised as one string (preset `released_code`).
      seats: whose models they are.
      dropped_bytes: room for text that is rolled back in one dispatch; 0: it is not kept.
      scored_words: room for words that are judged in one dispatch; 0: what is said of them is not kept.
      stop_ids: room for the stop ids of a row's own settings; None: rows have none of their own.
    """

    models: tuple[LanguageModel, ...]
    predictor_vocabs: tuple[Retokenizer | None, ...]
    context: int
    text_bytes: int
    log: int
    seed: int
    one_string: bool = False
    seats: Seats = AS_NAMED
    dropped_bytes: int = 0
    scored_words: int = 0
    stop_ids: int | None = None

    def start(self, job: Job) -> RowState:
        """Where the job begins or goes on."""
        return job.state or RowState(
            id=job.problem.id, sample_index=job.sample_index, text=b"", spans=(), role=self.seats.first, phase="think",
            span_start=0, kept=0, span_tokens=(), span_ends=(), event=0, counters={}, finish_think=None,
        )  # fmt: skip

    def prompts(self, job: Job) -> list[Prompt]:
        """A job's prompts, by role."""
        if job.request is not None:
            return list(job.request.prompts)
        return [model.prompt(job.problem.messages, self.one_string) for model in self.models]

    def empty(self, batch: int) -> State:
        """A batch of empty slots."""

        def zeros(*shape: int, dtype: type = np.int32) -> np.ndarray:
            return np.zeros((batch, *shape), dtype)

        def stream() -> Stream:
            many, one = (lambda: zeros(self.context)), zeros
            return Stream(many(), many(), one(), one(), one(), one(), one())

        def opening() -> Opening:
            return Opening(zeros(self.text_bytes, dtype=np.uint8), zeros(), zeros())

        room, words = self.dropped_bytes, self.scored_words
        dropped = DroppedBytes(zeros(room, dtype=np.uint8), zeros(self.log)) if room else None
        scores = WordScores(zeros(words), zeros(words), zeros(words, dtype=np.float32), zeros()) if words else None
        return State(
            key=zeros(2, dtype=np.uint32), text=zeros(self.text_bytes, dtype=np.uint8), kept=zeros(), written=zeros(),
            utf8=zeros(), span_start=zeros(), role=zeros(), phase=zeros(), event=zeros(), think_end=zeros(),
            think_tokens=zeros(), span_sampled=zeros(), unjudged=zeros(dtype=np.bool_), canonical=zeros(dtype=np.bool_),
            finish_think=zeros(), finish_answer=zeros(), waiting=zeros(dtype=np.bool_), log=zeros(self.log, 5),
            logged=zeros(),
            streams=(stream(), stream()), predictor_streams=(stream(), stream()),
            style=(zeros(self.context, dtype=np.float32), zeros(self.context, dtype=np.float32)),
            requests=Requests((opening(), opening()), zeros()) if self.one_string else None,
            dropped=dropped,
            scores=scores,
            settings=None if self.stop_ids is None else RowSettings.empty(batch, self.stop_ids),
        )  # fmt: skip

    def fill(self, batch: State, slot: int, job: Job, prompts: Sequence[Prompt]) -> None:
        """Writes `job` into a slot: all that is not in its `RowState` follows from it."""
        row = self.start(job)
        role = Role(self.seats.authors.index(row.role))
        thinking = row.phase == "think"
        phase = Phase.ANSWER if not thinking else Phase.CLOSING if row.finish_think else Phase.THINK
        values = {
            "key": row_key(self.seed, row.id, row.sample_index)
            if job.request is None
            else row_key(job.request.seed, job.request.id, row.sample_index),
            "kept": row.kept,
            "written": len(row.text),
            "utf8": self.models[role].utf8_after(row.span_tokens),
            "span_start": row.span_start,
            "role": role,
            "phase": phase,
            "event": row.event,
            "think_end": row.counters.get("think_end", -1),
            "think_tokens": row.counters.get("think_tokens", 0),
            "span_sampled": row.counters.get("span_sampled", 0),
            "unjudged": True,
            "canonical": False,
            "finish_think": Finish[row.finish_think.upper()] if row.finish_think else 0,
            "finish_answer": 0,
            "logged": 0,
        }
        for name, value in values.items():
            getattr(batch, name)[slot] = value
        batch.text[slot, : len(row.text)] = np.frombuffer(row.text, np.uint8)
        for author, model in enumerate(self.models):
            sampled = (row.span_tokens, row.span_ends) if author == role else ((), ())
            prompt = prompts[author]
            begin, string = len(prompt.opening), prompt.opening + row.text
            if thinking:
                ids, ends = model.retokenizer.encode(string, 0, begin + row.span_start)
                ends = [max(0, end - begin) for end in ends]
            else:
                closed = string[: begin + max(0, row.counters["think_end"])]
                thought = row.counters["think_end"] >= 0  # else not even the end of it is in the text
                ids = model.chat.closed_ids(closed) if author == Role.STUDENT and thought else []
                ends = [row.span_start] * len(ids)
            _fill_stream(batch.streams[author], slot, prompt.ids, (ids, ends), row.span_start, sampled)
        for stream, retokenizer in zip(batch.predictor_streams, self.predictor_vocabs, strict=True):
            covered = row.kept if thinking and retokenizer else 0
            read = retokenizer.encode(row.text, 0, covered) if retokenizer else ((), ())
            _fill_stream(stream, slot, (), read, covered, ((), ()))
        if batch.requests is not None:
            batch.requests.attempt[slot] = row.counters.get("attempt", 0)
            for opening, prompt in zip(batch.requests.openings, prompts, strict=True):
                opening.text[slot, : len(prompt.opening)] = np.frombuffer(prompt.opening, np.uint8)
                opening.size[slot], opening.prompt[slot] = len(prompt.opening), prompt.size
        base = int(batch.streams[role].base[slot])
        batch.style[role][slot, base : base + len(row.span_style)] = row.span_style
        if batch.settings is not None:
            assert isinstance(job.request, GenerationRequest), "the rows of this engine have settings of their own"
            job.request.fill(batch.settings, slot)

    def snapshot(self, batch: State, slot: int, job: Job, past: Past) -> RowState:
        """The row in `slot` as the journal keeps it. A turn never ends with an event pending."""
        role = Role(int(batch.role[slot]))
        stream = batch.streams[role]
        phase = int(batch.phase[slot])
        sampled = int(batch.span_sampled[slot])
        span = slice(int(stream.base[slot]), int(stream.n[slot])) if sampled else slice(0, 0)
        finish = int(batch.finish_think[slot])
        return RowState(
            id=job.problem.id,
            sample_index=job.sample_index,
            text=batch.text[slot, : int(batch.written[slot])].tobytes(),
            spans=past.spans,
            role=self.seats.authors[role],
            phase="answer" if phase == Phase.ANSWER else "think",
            span_start=int(batch.span_start[slot]),
            kept=int(batch.kept[slot]),
            span_tokens=tuple(stream.tokens[slot, span].tolist()),
            span_ends=tuple(stream.ends[slot, span].tolist()),
            span_style=() if self.predictor_vocabs[role] else tuple(batch.style[role][slot, span].tolist()),
            event=int(batch.event[slot]),
            counters={
                "think_tokens": int(batch.think_tokens[slot]),
                "span_sampled": sampled,
                "think_end": int(batch.think_end[slot]),
            }
            | ({} if batch.requests is None else {"attempt": int(batch.requests.attempt[slot])}),
            finish_think=Finish(finish).name.lower() if finish else None,
            dropped_text=past.dropped,
            word_scores=past.scores,
        )

    def output(self, batch: State, slot: int, job: Job, past: Past) -> RequestOutput:
        """How far the row in `slot` is."""
        spans = (*past.spans, *self._open_span(batch, slot)) if isinstance(job.request, PairRequest) else ()
        return RequestOutput.read(batch, slot, job.key, sum(span.n_tokens for span in past.spans), spans)

    def _open_span(self, batch: State, slot: int) -> list[Span]:
        """What is decided of the span that is being written, in bytes."""
        start, kept, role = int(batch.span_start[slot]), int(batch.kept[slot]), Role(int(batch.role[slot]))
        if kept <= start or batch.phase[slot] not in (Phase.THINK, Phase.ANSWER):
            return []
        stream = batch.streams[role]
        ends = stream.ends[slot, int(stream.base[slot]) : int(stream.n[slot])]
        phase: Writing = "think" if batch.phase[slot] == Phase.THINK else "answer"
        return [Span(self.seats.authors[role], phase, start, kept, int(np.sum(ends <= kept)), 0)]

    def past(self, batch: State, slot: int, before: Past) -> Past:
        """`before`, and what this dispatch has brought."""
        dropped, scores = self._dropped(batch, slot), self._scores(batch, slot)
        return Past(self._spans(batch, slot, before.spans), before.dropped + dropped, before.scores + scores)

    def _spans(self, batch: State, slot: int, before: Sequence[Span]) -> tuple[Span, ...]:
        """`before` and the spans that this dispatch finished, in bytes; one that kept nothing still says what it
        dropped.
        """
        spans = list(before)
        for role, phase, end, kept, dropped in batch.log[slot, : int(batch.logged[slot])].tolist():
            answer = phase == Phase.ANSWER
            start = spans[-1].end if spans else 0
            if answer:
                start = int(batch.think_end[slot]) + len(self.models[Role.STUDENT].chat.close_text)
            span = Span(
                self.seats.authors[role], "answer" if answer else "think", start, max(start, end), kept, dropped
            )
            last = spans[-1] if spans else None
            if last is not None and (last.by, last.phase) == (span.by, span.phase):  # its author goes on
                span = Span(
                    span.by, span.phase, last.start, span.end, last.n_tokens + kept, last.dropped_tokens + dropped
                )
                spans.pop()
            spans.append(span)
        return tuple(spans)

    def _dropped(self, batch: State, slot: int) -> tuple[DroppedText, ...]:
        """What was rolled back in this dispatch; nothing where it is not kept."""
        if batch.dropped is None:
            return ()
        logged = int(batch.logged[slot])
        text, ends = batch.dropped.text[slot].tobytes(), batch.dropped.ends[slot, :logged].tolist()
        spans = zip(batch.log[slot, :logged].tolist(), [0, *ends], ends, strict=False)
        return tuple(
            DroppedText(self.seats.authors[role], at, tokens, text[start:end].decode(errors="replace"))
            for (role, _, at, _, tokens), start, end in spans
            if tokens
        )

    def _scores(self, batch: State, slot: int) -> tuple[WordScore, ...]:
        """What was said of the words that were judged in this dispatch; nothing where it is not kept."""
        if batch.scores is None:
            return ()
        columns = (batch.scores.starts, batch.scores.ends, batch.scores.style.astype(float).round(4))
        return tuple(map(WordScore, *(column[slot, : int(batch.scores.n[slot])].tolist() for column in columns)))

    def record(self, batch: State, slot: int, job: Job, past: Past) -> Record | str:
        """The finished row as a record, or the reason why it is rejected."""
        think, answer = Finish(int(batch.finish_think[slot])), Finish(int(batch.finish_answer[slot]))
        if Finish.OVERFLOW in (think, answer):
            return f"the row outgrew its buffers ({self.context} tokens, {self.text_bytes} bytes): raise engine.context"
        if think == Finish.FAILED:
            return "the text could not be tokenised on the host; run.log has the reason"
        if think == Finish.BLANK:
            return "a turn was white space only, however often it was asked for (preset released_code)"
        if answer == Finish.NONE:
            return f"thinking ended by '{think.name.lower()}' and on_budget is 'reject'"
        text = batch.text[slot, : int(batch.written[slot])].tobytes()
        text = text.decode("utf-8", errors="ignore").encode()  # a budget can end within a character
        model, form, think_end = self.models[Role.STUDENT], self.seats.form, int(batch.think_end[slot])
        open_, close = model.open_text, model.chat.close_text
        longer = 0
        if form is not None:
            text = text[:think_end] + form.close.encode() + text[think_end + len(close) :]
            open_, longer = form.open, len(form.close.encode()) - len(close)

        def characters(at: int) -> int:
            return len(open_) + len(text[:at].decode("utf-8", errors="ignore"))

        def place(span: Span) -> Span:
            limit, moved = (think_end, 0) if span.phase == "think" else (len(text), longer)
            start, end = (characters(min(at + moved, limit)) for at in (span.start, span.end))
            return dataclasses.replace(span, start=start, end=end)

        def thought(at: int) -> int:
            return characters(min(at, think_end))  # white space at the end of the thinking is no part of it

        # Of an answer nothing is rolled back, and nothing is judged.
        cuts = tuple(dataclasses.replace(each, at=thought(each.at)) for each in past.dropped)
        scores = tuple(WordScore(thought(each.start), thought(each.end), each.style) for each in past.scores)
        placed = tuple(s for s in map(place, past.spans) if s.start < s.end)
        authors = [s.by for s in placed if s.phase == "think"]
        return Record(
            problem=job.problem,
            sample_index=job.sample_index,
            content=open_ + text.decode(),
            spans=placed,
            n_tokens=TokenCounts.of(past.spans),
            switches=sum(a != b for a, b in itertools.pairwise(authors)),
            finish=Ending(think.name.lower(), answer.name.lower()),
            seed=self.seed,
            dropped_text=None if batch.dropped is None else cuts,
            word_scores=None if batch.scores is None else scores,
        )


def _fill_stream(
    stream: Stream,
    slot: int,
    prompt: Sequence[int],
    canonical: tuple[Sequence[int], Sequence[int]],
    covered: int,
    sampled: tuple[Sequence[int], Sequence[int]],
) -> None:
    base = len(prompt) + len(canonical[0])
    n = base + len(sampled[0])
    stream.tokens[slot, :n] = [*prompt, *canonical[0], *sampled[0]]
    stream.ends[slot, :n] = [*([0] * len(prompt)), *canonical[1], *sampled[1]]
    stream.n[slot], stream.base[slot], stream.covered[slot] = n, base, covered
    stream.cached[slot] = stream.high[slot] = 0
