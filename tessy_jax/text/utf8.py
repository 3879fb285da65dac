"""UTF-8 as an automaton: which tokens may follow so that the bytes of a text are whole characters."""

from collections.abc import Sequence

import numpy as np

INVALID = 255
"""Entry of `utf8_table`: this token would make the text invalid UTF-8."""


# UTF-8 as an automaton (Unicode standard, table 3-7: no overlong forms, no surrogates): in each state, the bytes that
# may come and the state after them. The byte after E0, ED, F0 and F4 has a narrower range.
_LEADS = [(0x00, 0x7F, 0), (0xC2, 0xDF, 1), (0xE0, 0xE0, 3), (0xE1, 0xEC, 2), (0xED, 0xED, 4), (0xEE, 0xEF, 2)]
_LEADS += [(0xF0, 0xF0, 5), (0xF1, 0xF3, 6), (0xF4, 0xF4, 7)]
_NEXT = {
    0: _LEADS,
    1: [(0x80, 0xBF, 0)],  # one continuation byte to come
    2: [(0x80, 0xBF, 1)],  # two
    3: [(0xA0, 0xBF, 1)],  # after E0
    4: [(0x80, 0x9F, 1)],  # after ED
    5: [(0x90, 0xBF, 2)],  # after F0
    6: [(0x80, 0xBF, 2)],  # three
    7: [(0x80, 0x8F, 2)],  # after F4
}


STATES = len(_NEXT)


def _transitions() -> np.ndarray:
    table = np.full((256, 256), INVALID, np.uint8)  # rows from STATES on are "invalid", which stays invalid
    for state, ranges in _NEXT.items():
        for low, high, target in ranges:
            table[state, low : high + 1] = target
    return table


def byte_matrix(token_bytes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Token bytes as `uint8 [V, Lmax]`, padded with zeros, and their lengths as `int32 [V]`."""
    lengths = np.array([len(b) for b in token_bytes], np.int32)
    matrix = np.zeros((len(token_bytes), max(1, int(lengths.max(initial=0)))), np.uint8)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(token_bytes), np.uint8)
    return matrix, lengths


def utf8_table(token_bytes: Sequence[bytes]) -> np.ndarray:
    """`uint8 [STATES, V]`: the UTF-8 state after a token's bytes, from each state, or `INVALID`. State 0 is "between
    characters".

    A token of no bytes (control, end of text) is allowed between characters only, so that an event never leaves half
    a character behind.
    """
    matrix, lengths = byte_matrix(token_bytes)
    step = _transitions()
    order = np.argsort(-lengths, kind="stable")
    longer = np.searchsorted(
        -lengths[order], -np.arange(matrix.shape[1]), side="left"
    )  # how many tokens have a byte at each position
    table = np.repeat(np.arange(STATES, dtype=np.uint8)[:, None], len(token_bytes), axis=1)
    for position, count in enumerate(longer):
        ids = order[:count]
        table[:, ids] = step[table[:, ids], matrix[ids, position]]
    table[1:, lengths == 0] = INVALID
    return table
