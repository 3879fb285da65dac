"""Generate: one token for every row that writes, again and again, up to k of them. Line 4 of Algorithm 1."""

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
from tessy_jax.text_jax.arrays import pick, scatter


class Generated(NamedTuple):
    """The rows and the model's cache after `steps` decode steps."""

    state: State
    cache: Any
    steps: Int[Array, ""]


@dataclass(frozen=True, eq=False)
class Generator:
    """How one model writes. Everything in here is static; arrays come in as arguments.

    Attributes:
        role: whose model it is.
        graph: its nnx graph definition.
        sampling: how it chooses tokens.
        k: tokens generated per turn at most.
        predictor: one that reads the model's hidden states while it writes; None: the predictor reads the text.
        max_answer_tokens: budget of the answer.
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
            return Generated(*self.decode(model, params, now.state, now.cache), now.steps + 1)

        return lax.while_loop(unfinished, step, Generated(state, cache, jnp.zeros((), jnp.int32)))

    def writing(self, state: State) -> Bool[Array, " B"]:
        """The rows that get another token."""
        open_ = state.whose_turn(self.role) & (state.event == Finish.NONE)
        return open_ & ~(state.answering() & self.answer_is_full(state))

    def answer_is_full(self, state: State) -> Bool[Array, " B"]:
        """Whether as many tokens are sampled as an answer may have."""
        stream = state.streams[self.role]
        return stream.n - stream.base >= self.max_answer_tokens

    def decode(self, model: Any, params: RoleParams, state: State, cache: Any) -> tuple[State, Any]:
        """One token for every row that writes: one forward pass over the batch. Other rows feed padding."""
        vocab, stream, on = params.vocab, state.streams[self.role], self.writing(state)

        # Forward pass over each row's last token.
        last = jnp.take_along_axis(stream.tokens, stream.last[:, None], axis=1)
        layers: list[Array] = []
        hidden, cache = model(last, jnp.where(on, stream.last, -1)[:, None], cache, record_hidden_states(layers))
        logits = model.logits(hidden[:, 0])

        with jax.named_scope("sample"):
            # Forbidden: what breaks UTF-8, padding rows of the vocabulary, control tokens but the declared events.
            next_utf8 = vocab.next_utf8[state.utf8 + STATES * state.answering()][:, : logits.shape[1]]
            allowed = jnp.where(next_utf8 != INVALID, logits, -jnp.inf)

            # Sample, by a number that depends on the row's own text alone.
            token = self.sampling(allowed, uniforms(state.key, state.written, state.draw(self.role)))

        # Append the token and its bytes. An event is no text: it is noted, and the row stops.
        event = vocab.event[token]
        said = on & (event == Finish.NONE)
        longest = vocab.token_bytes.shape[1]
        size = jnp.where(said, vocab.token_len[token], 0)
        at = state.written[:, None] + jnp.arange(longest)
        text = scatter(state.text, at, vocab.token_bytes[token], jnp.arange(longest) < size[:, None])
        written = state.written + size
        n = stream.n[:, None]
        appended = stream.replace(
            tokens=scatter(stream.tokens, n, token[:, None], said[:, None]),
            ends=scatter(stream.ends, n, written[:, None], said[:, None]),
            n=stream.n + said,
            cached=pick(on, stream.n, stream.cached),
            high=pick(on, jnp.maximum(stream.high, stream.n), stream.high),
        )

        # Predict whether the token is style, where the predictor reads this pass's hidden states.
        if self.predictor is not None:
            assert self.predictor.layer is not None
            style = self.predictor.style(params.predictor, layers[self.predictor.layer][:, 0], token)
            state = state.with_style(self.role, scatter(state.style[self.role], n, style[:, None], said[:, None]))

        # Stop where a buffer has no room for another token.
        full = (written + longest > state.text.shape[1]) | stream.full()
        event = jnp.where(said & full, Finish.OVERFLOW, event)
        utf8 = jnp.take_along_axis(next_utf8, token[:, None], axis=1)[:, 0].astype(jnp.int32)
        state = state.replace(
            text=text,
            written=written,
            utf8=pick(said, utf8, state.utf8),
            event=pick(on, event, state.event),
            span_sampled=state.span_sampled + said,
        )
        return state.with_stream(self.role, appended), cache
