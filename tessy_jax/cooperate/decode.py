"""Generate: one token for every row that writes, again and again, up to k of them. Line 4 of Algorithm 1.

A token comes out of a forward pass, and what a pass feeds is a `Feed`: one token of each row in a turn of up to k, or
whatever some rows' model has not read yet (`stream.StreamSchedule`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.sampling import Sampling, uniforms
from tessy_jax.cooperate.state import Finish, Role, State
from tessy_jax.predictors.base import HiddenStatePredictor
from tessy_jax.predictors.probe import record_hidden_states
from tessy_jax.text.utf8 import INVALID, STATES
from tessy_jax.text_jax.arrays import gather, pick, scatter


class Generated(NamedTuple):
    """The rows and the model's cache after `steps` decode steps."""

    state: State
    cache: Any
    steps: Int[Array, ""]


class Feed(NamedTuple):
    """What one forward pass feeds: of B' rows up to C tokens each.

    Attributes:
        rows: the rows of the batch that may be fed.
        width: C, how many tokens of a row at most.
        slots: the B' rows that the pass has places for; places beyond the batch are padding. None: all, in order.
    """

    rows: Bool[Array, " B"]
    width: int = 1
    slots: Int[Array, " P"] | None = None

    def take(self, values: Array) -> Array:
        """The values of the rows that have a place."""
        return values if self.slots is None else values[jnp.minimum(self.slots, len(values) - 1)]

    def give(self, values: Array) -> Array:
        """Values of places as those of the rows; zeros for rows that have none."""
        if self.slots is None:
            return values
        return jnp.zeros((len(self.rows), *values.shape[1:]), values.dtype).at[self.slots].set(values, mode="drop")

    def fed(self) -> Bool[Array, " B"]:
        """The rows that get something to read: those that may, and have a place."""
        if self.slots is None:
            return self.rows
        return self.rows & (self.give(jnp.ones_like(self.slots)) > 0)


@dataclass(frozen=True, eq=False)
class Generator:
    """How one model writes. Everything in here is static; arrays come in as arguments.

    Attributes:
        role: whose model it is.
        graph: its nnx graph definition.
        sampling: how it chooses tokens, where rows have no settings of their own.
        k: tokens generated per turn at most.
        predictor: one that reads the model's hidden states while it writes; None: the predictor reads the text.
        max_answer_tokens: budget of the answer, where rows have none of their own.
    """

    role: Role
    graph: nnx.GraphDef
    sampling: Sampling
    k: int
    predictor: HiddenStatePredictor | None
    max_answer_tokens: int

    def __call__(self, params: RoleParams, state: State, cache: Any) -> Generated:
        """Up to k tokens per row; a row stops earlier at a structural event or at its answer's budget."""
        model = nnx.merge(self.graph, params.model)

        def unfinished(now: Generated) -> Bool[Array, ""]:
            return (now.steps < self.k) & jnp.any(self.writing(now.state))

        def step(now: Generated) -> Generated:
            feed = Feed(self.writing(now.state))
            return Generated(*self.decode(model, params, now.state, now.cache, feed), now.steps + 1)

        return lax.while_loop(unfinished, step, Generated(state, cache, jnp.zeros((), jnp.int32)))

    def writing(self, state: State) -> Bool[Array, " B"]:
        """The rows that get another token."""
        open_ = state.whose_turn(self.role) & (state.event == Finish.NONE)
        if state.settings is not None:
            return open_ & ~state.settings.spent(state.tokens)
        return open_ & ~(state.answering() & self.answer_is_full(state))

    def answer_is_full(self, state: State) -> Bool[Array, " B"]:
        """Whether as many tokens are sampled as an answer may have."""
        if state.settings is not None:
            return state.settings.spent(state.tokens)
        stream = state.streams[self.role]
        return stream.n - stream.base >= self.max_answer_tokens

    def decode(self, model: Any, params: RoleParams, state: State, cache: Any, feed: Feed) -> tuple[State, Any]:
        """One forward pass: rows read what their model has not read yet, up to `feed.width` tokens, and those that have
        read all then get one more.
        """
        vocab, stream, on = params.vocab, state.streams[self.role], feed.fed()

        # Forward pass from the first token that was not read; at least over the last one. Other places feed padding.
        start = jnp.minimum(stream.cached, stream.last)
        size = jnp.where(on, jnp.minimum(stream.n - start, feed.width), 0)
        at = start[:, None] + jnp.arange(feed.width)
        tokens = gather(stream.tokens, at)
        positions = jnp.where(jnp.arange(feed.width) < size[:, None], at, -1)
        if feed.slots is not None:
            padding = (feed.slots >= len(on))[:, None]
            tokens, positions = feed.take(tokens), jnp.where(padding, -1, feed.take(positions))
        layers: list[Array] = []
        hidden, cache = model(tokens, positions, cache.of_rows(feed.slots), record_hidden_states(layers))
        cache = cache.of_rows(None)

        def last(hidden: Array) -> Array:
            if feed.width == 1:
                return hidden[:, 0]
            index = jnp.maximum(feed.take(size) - 1, 0)[:, None, None]
            return jnp.take_along_axis(hidden, index, axis=1)[:, 0]

        logits = model.logits(last(hidden))
        samples = on & (start + size == stream.n)

        with jax.named_scope("sample"):
            # Forbidden: what breaks UTF-8, padding rows of the vocabulary, control tokens but the declared events.
            automaton = feed.take(state.utf8 + STATES * state.answering())
            next_utf8 = vocab.next_utf8[automaton][:, : logits.shape[1]]
            allowed = jnp.where(next_utf8 != INVALID, logits, -jnp.inf)

            # Sample, by a number that depends on the row's own text alone.
            draw = jnp.broadcast_to(jnp.asarray(state.draw(self.role)), state.written.shape)
            uniform = uniforms(*map(feed.take, (state.key, state.written, draw)))
            if state.settings is None:
                chosen = self.sampling(allowed, uniform)
            else:
                chosen = jax.tree.map(feed.take, state.settings).choose(allowed, uniform)
            utf8 = jnp.take_along_axis(next_utf8, chosen[:, None], axis=1)[:, 0].astype(jnp.int32)
            token, utf8 = feed.give(chosen), feed.give(utf8)

        # Append the token and its bytes. An event is no text: it is noted, and the row stops.
        event = vocab.event[token]
        if state.settings is not None:
            event = jnp.where(state.answering() & state.settings.stops(token), Finish.EOS, event)
        said = samples & (event == Finish.NONE)
        longest = vocab.token_bytes.shape[1]
        length = jnp.where(said, vocab.token_len[token], 0)
        at = state.written[:, None] + jnp.arange(longest)
        text = scatter(state.text, at, vocab.token_bytes[token], jnp.arange(longest) < length[:, None])
        written = state.written + length
        n = stream.n[:, None]
        shown = said if state.settings is None else samples  # there what ends a row can be read behind the rest
        appended = stream.replace(
            tokens=scatter(stream.tokens, n, token[:, None], shown[:, None]),
            ends=scatter(stream.ends, n, written[:, None], said[:, None]),
            n=stream.n + said,
            cached=pick(on, start + size, stream.cached),
            high=pick(on, jnp.maximum(stream.high, start + size), stream.high),
        )

        # Predict whether the token is style, where the predictor reads this pass's hidden states.
        if self.predictor is not None:
            assert self.predictor.layer is not None
            style = feed.give(self.predictor.style(params.predictor, last(layers[self.predictor.layer]), chosen))
            state = state.with_style(self.role, scatter(state.style[self.role], n, style[:, None], said[:, None]))

        # Stop where a buffer has no room for another token.
        full = (written + longest > state.text.shape[1]) | stream.full()
        event = jnp.where(said & full, Finish.OVERFLOW, event)
        state = state.replace(
            text=text,
            written=written,
            utf8=pick(said, utf8, state.utf8),
            event=pick(samples, event, state.event),
            span_sampled=state.span_sampled + said,
            unjudged=state.unjudged | samples,
        )
        return state.with_stream(self.role, appended), cache
