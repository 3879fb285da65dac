"""A turn as a request to a server, for the preset `released_code`: prompt and text are tokenised as one string, and
limits count the whole of it.

    prompt   …<think>\n      text   \nOkay, so      one string   …<think>\n\nOkay, so

Here the newlines are one token. So tokens may change at the end of the prompt when a text comes to stand behind it, and
at the end of each turn when the next one does. What is before the last place over which no token goes stays: only the
`Opening` behind that place is tokenised again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from tessy_jax.cooperate.decode import Generator
from tessy_jax.cooperate.host_callback import TokenEdits
from tessy_jax.cooperate.state import Opening, State


@dataclass(frozen=True)
class OneString:
    """What a `HandOver` asks of the host, where prompt and text are one string.

    Attributes:
        step: `(string, covered, target)`: see `HostTokenizer.step`.
        end: `(string, kept, begin)`: the edit that ends the thinking that begins at byte `begin`.
    """

    step: Callable[[np.ndarray, int, int], TokenEdits]
    end: Callable[[np.ndarray, int, int], TokenEdits]

    def retokenize(self, text: UInt8[np.ndarray, " Y"], covered: int, target: int, opening: Opening) -> TokenEdits:
        """From the tokens of the string with `text[:covered]` towards those of that with `text[:target]`."""
        begin = int(opening.size)
        return _behind(begin, self.step(_joined(opening, text), begin + int(covered), begin + int(target)))

    def close(self, text: UInt8[np.ndarray, " Y"], kept: int, opening: Opening) -> TokenEdits:
        """From the tokens of the string with `text[:kept]` to those of the string with the thinking's end."""
        begin = int(opening.size)
        return _behind(begin, self.end(_joined(opening, text), begin + int(kept), begin))


def _joined(opening: Opening, text: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(opening.text)[: int(opening.size)], text])


def _behind(begin: int, edit: TokenEdits) -> TokenEdits:
    """The same edit, told in bytes of the text; the prompt's tokens end at 0."""
    return edit.replace(ends=[max(0, end - begin) for end in edit.ends], covered=edit.covered - begin)


@dataclass(frozen=True, eq=False)
class RequestGenerator(Generator):
    """Writes with a limit on prompt, thinking and answer together.

    Attributes:
        max_model_len: the limit, in the student's tokens. An answer has one token at least.
    """

    max_model_len: int

    def answer_is_full(self, state: State) -> Bool[Array, " B"]:
        """Whether prompt, thinking and answer are as many tokens as they may be."""
        stream = state.streams[self.role]
        return stream.n - stream.base >= jnp.maximum(1, self.max_model_len - stream.base)
