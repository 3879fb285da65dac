"""What happens to a model's tokens between two turns: rollback, hand-over and catch-up."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import FAILED, TokenEdits
from tessy_jax.cooperate.state import Finish, Stream
from tessy_jax.text_jax.arrays import gather, pick, scatter

Read = Callable[[Int[Array, "B C"], Int[Array, "B C"], Any], Any]
"""`read(tokens, positions, carry) -> carry`: one chunk through a model; position -1 marks padding."""


def apply_edit(stream: Stream, rows: Bool[Array, " B"], new: TokenEdits) -> tuple[Stream, Int[Array, " B"]]:
    """Drops tokens from the canonical end of the streams, and appends others.

    Also returns why not (a `Finish`), or NONE.

    What the model has read stays read as far as the tokens agree: the tokens it sampled itself are usually the
    canonical ones, and then it goes on without reading anything again. Example, with `cached = 5`, `base = 3`,
    three tokens sampled since:

        tokens  [p p a|b c d]     the span was cut after c, and "bc" is one canonical token, e
        new     drop 0, ids [e]
        tokens  [p p a e|c d]     n = base = 4, cached = 3: position 3 holds another token now
    """
    index = (stream.base - new.drop)[:, None] + jnp.arange(new.ids.shape[1])
    meant = rows[:, None] & (jnp.arange(new.ids.shape[1]) < new.count[:, None])
    full = stream.base - new.drop + new.count >= stream.tokens.shape[1]
    why = jnp.where(new.count == FAILED, Finish.FAILED, jnp.where(full, Finish.OVERFLOW, Finish.NONE))
    why = jnp.where(rows, why, Finish.NONE)
    failed = why != Finish.NONE
    meant &= ~failed[:, None]
    differs = meant & (index < stream.cached[:, None]) & (gather(stream.tokens, index) != new.ids)
    unread = jnp.min(jnp.where(differs, index, stream.tokens.shape[1]), axis=1)
    end = jnp.where(failed, stream.base, stream.base - new.drop + new.count)
    return stream.replace(
        tokens=scatter(stream.tokens, index, new.ids, meant),
        ends=scatter(stream.ends, index, new.ends, meant),
        n=pick(rows, end, stream.n),
        base=pick(rows, end, stream.base),
        covered=pick(rows, new.covered, stream.covered),
        cached=jnp.minimum(stream.cached, unread),
    ), why


def accept_sampled(stream: Stream, rows: Bool[Array, " B"], kept: Int[Array, " B"], count: Int[Array, " B"]) -> Stream:
    """Makes the first `count` tokens sampled in the span canonical, which stand for the text up to byte `kept`."""
    end = pick(rows, stream.base + count, stream.base)
    return stream.replace(n=pick(rows, end, stream.n), base=end, covered=pick(rows, kept, stream.covered))


def copy_tokens(
    stream: Stream, source: Stream, rows: Bool[Array, " B"], upto: Int[Array, " B"]
) -> tuple[Stream, Int[Array, " B"]]:
    """Gives `stream` the tokens of another model of its vocabulary for the first `upto` bytes, which must be canonical
    for these, and end there. Also returns why not (a `Finish`), or NONE.
    """
    index = jnp.arange(stream.tokens.shape[1])
    used = index < source.n[:, None]
    prompt = jnp.sum((stream.ends == 0) & (index < stream.base[:, None]), axis=1)
    skipped = jnp.sum((source.ends == 0) & used, axis=1)
    count = jnp.sum((source.ends > 0) & used & (source.ends <= upto[:, None]), axis=1)
    end = prompt + count
    why = jnp.where(rows & (end >= stream.tokens.shape[1]), Finish.OVERFLOW, Finish.NONE)
    there = index + (skipped - prompt)[:, None]
    taken = rows & (why == Finish.NONE)
    new = taken[:, None] & (index >= prompt[:, None]) & (index < end[:, None])
    tokens, ends = gather(source.tokens, there), gather(source.ends, there)
    differs = new & (index < stream.cached[:, None]) & (tokens != stream.tokens)
    unread = jnp.min(jnp.where(differs, index, stream.tokens.shape[1]), axis=1)
    followed = stream.replace(
        tokens=jnp.where(new, tokens, stream.tokens),
        ends=jnp.where(new, ends, stream.ends),
        n=pick(taken, end, stream.n),
        base=pick(taken, end, stream.base),
        covered=pick(taken, upto, stream.covered),
        cached=pick(taken, jnp.minimum(stream.cached, unread), stream.cached),
    )
    return followed, why


def rollback(stream: Stream, rows: Bool[Array, " B"], depth: int) -> Stream:
    """Rollback: what lies beyond the tokens in use was never read.

    Nothing is erased: a stale slot holds a later position and is overwritten before it becomes visible. Only a ring
    (a sliding window, a block context) can have lost old slots to discarded tokens, and only deeper than its slack:
    then the row is read again from its start, which restores every slot in order.
    """
    cached = jnp.minimum(stream.cached, stream.n)
    lost = stream.high - cached > depth
    return stream.replace(
        cached=pick(rows, jnp.where(lost, 0, cached), stream.cached),
        high=pick(rows, jnp.where(lost, 0, stream.high), stream.high),
    )


def hand_over(
    stream: Stream,
    rows: Bool[Array, " B"],
    target: Int[Array, " B"],
    step: Callable[[Bool[Array, " B"], Int[Array, " B"]], TokenEdits],
    depth: int,
) -> tuple[Stream, Int[Array, " B"]]:
    """Makes the tokens of `rows` canonical for the first `target` bytes of the text; also returns why not, or NONE."""

    def behind(carry: tuple[Stream, Array]) -> Bool[Array, " B"]:
        stream, why = carry
        return rows & (why == Finish.NONE) & (stream.covered != target)

    def one(carry: tuple[Stream, Array]) -> tuple[Stream, Array]:
        stream, why = carry
        need = behind(carry)
        stream, now = apply_edit(stream, need, step(need, stream.covered))
        return stream, jnp.maximum(why, now)

    stream, why = lax.while_loop(lambda c: jnp.any(behind(c)), one, (stream, jnp.zeros_like(target)))
    return rollback(stream, rows, depth), why


def catch_up(
    stream: Stream, rows: Bool[Array, " B"], upto: Int[Array, " B"], chunk: int, read: Read, carry: Any
) -> tuple[Stream, Any]:
    """Feeds the tokens that a model has not read, `chunk` at a time, until `upto` of them are in its cache."""

    def behind(stream: Stream) -> Bool[Array, " B"]:
        return rows & (stream.cached < upto)

    def one(both: tuple[Stream, Any]) -> tuple[Stream, Any]:
        stream, carry = both
        index = stream.cached[:, None] + jnp.arange(chunk)
        live = behind(stream)[:, None] & (index < upto[:, None])
        carry = read(gather(stream.tokens, index), jnp.where(live, index, -1), carry)
        cached = pick(behind(stream), jnp.minimum(stream.cached + chunk, upto), stream.cached)
        return stream.replace(cached=cached, high=jnp.maximum(stream.high, cached)), carry

    return lax.while_loop(lambda c: jnp.any(behind(c[0])), one, (stream, carry))
