"""Word boundaries: where a phrase may begin and end so that it is not part of a longer word."""

import unicodedata

_JOINERS = "'’-"  # between two letters they belong to the word


def is_boundary(text: str, at: int) -> bool:
    """Whether a word may begin or end before the character `at`: no word goes on from one side to the other.

    Letters and digits make words, with apostrophes and hyphens between them. Scripts that are written without spaces
    (wide characters: Chinese, Japanese, Korean) have a boundary at every character.
    """
    if not 0 < at < len(text):
        return True
    left, right = text[at - 1], text[at]
    if _wordy(left) and _wordy(right):
        return False
    if left in _JOINERS:
        return not (_wordy(right) and at > 1 and _wordy(text[at - 2]))
    if right in _JOINERS:
        return not (_wordy(left) and at + 1 < len(text) and _wordy(text[at + 1]))
    return True


def _wordy(char: str) -> bool:
    return (char.isalnum() or char == "_") and unicodedata.east_asian_width(char) not in "WF"
