"""The `released_code` preset in plain Python, from the description of the released program (its cut rule, step by
step).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tests.kit.oracle import STUDENT, WHITE, Oracle, Trace


@dataclasses.dataclass
class ReleasedOracle:
    """`head[role](ids)` is P(style) at each token of a window, which stands for the token after it."""

    base: Oracle
    head: tuple[Callable[[list[int]], np.ndarray], ...]
    tokens_per_turn: tuple[int, int]
    window: int

    def trace(self, messages: list[dict], record: str, sample: int) -> Trace:
        base = self.base
        prompts = [a.chat.prompt_ids(messages) for a in base.authors]
        key = base._key(record, sample)
        y, role, used, pieces = b"", STUDENT, 0, []
        why = None
        while why is None:
            author = base.authors[role]
            context = prompts[role] + author.encode(y)
            new, ends, sampled, event = b"", [], [], None
            for _ in range(self.tokens_per_turn[role]):
                token = base._sample(author, context + sampled, y + new, key, role, thinking=True)
                if token in author.events:
                    event = author.events[token]
                    break
                sampled.append(token)
                new += author.bytes_of[token]
                ends.append(len(y) + len(new))
            whole = (y + new).decode(errors="ignore")
            kept, flips = self._cut(role, y.decode(), whole)
            reached_end = kept == whole
            marker = author.chat.textual_marker
            at = kept.encode().find(marker, max(0, len(y) - len(marker) + 1)) if marker else -1
            data = kept.encode()[:at] if at >= 0 else kept.encode()
            used += sum(e <= len(data) for e in ends)
            if at >= 0:
                why = "end"
            elif event and reached_end:
                why = event
            elif base.loops and base.loops(data, len(data)):
                why = "loop"
            elif used >= base.max_think_tokens:
                why = "length"
            pieces.append((role, len(y), len(data)))
            y = data
            if flips and why is None:
                role = 1 - role
        return self._close(prompts[STUDENT], y, pieces, why, key)

    def _cut(self, role: int, before: str, whole: str) -> tuple[str, bool]:
        """The kept text, and whether the role flips."""
        ids, ends = self.base.encode_for_judge[role](whole.encode())
        ids, ends = ids[-self.window :], ends[-self.window :]
        style = self.head[role](ids) >= self.base.thresholds[role]
        other = style != (role == STUDENT)
        begin = len(before.encode())
        last = 0
        for i, end in enumerate(ends):
            start = last if i and end == ends[i - 1] else (ends[i - 1] if i else -1)
            last = start
            if start > begin and other[i]:
                kept = whole.encode()[:end].decode()
                while len(kept) < len(whole) and whole[len(kept)] not in WHITE:
                    kept += whole[len(kept)]
                return kept, True
        return whole, bool(len(ids) and other[-1])

    def _close(self, prompt: list[int], y: bytes, pieces: list, why: str, key: object) -> Trace:
        student = self.base.authors[STUDENT]
        y = y.rstrip(b" \t\r\n\v\f")
        context = prompt + student.chat.closed_ids(y)
        text, finish = self.base._answer(context, y + student.chat.close_text, key)
        return Trace(text, len(y), pieces, (why, finish), 0)
