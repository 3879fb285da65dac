"""Where the answer stands in a response: behind the thinking."""

from typing import Literal

from tessy_jax.evals.extract import answer_of
from tessy_jax.evals.records import Response
from tessy_jax.text.thinking import Thinking

OnTruncated = Literal["fail", "keep", "forced"]


def find_answer(response: Response, thinking: Thinking | None, on_truncated: OnTruncated) -> str | None:
    """The answer of a response; None where its thinking never ended.

    Args:
        thinking: the marks of thinking in text of a server or file; responses of our engine say where the answer is.
        on_truncated: what a response counts for whose thinking its budget ended: nothing ("fail"); its thinking
            ("keep": OpenCompass judges whatever draft stands there); the answer that was asked for all the same
            ("forced").
    """
    text, start = response.response, response.answer_start
    if response.finish == "truncated_thinking":
        if on_truncated == "forced" and start is not None and start < len(text):
            return text[start:]
        return text[:start] if on_truncated == "keep" else None
    if start is not None:
        return text[start:]
    cut = response.finish == "length"
    return answer_of(text, thinking, opened=cut, on_truncated="keep" if on_truncated == "keep" else "fail")
