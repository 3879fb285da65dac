"""Who has which pages of the caches: rows take them as they grow and give them back (PagedAttention, arXiv 2309.06180).

A dispatch takes no page: before it the host gives each row those for the tokens that it may read next. Where they run
short, the youngest row gives its own back and waits; it begins again where it was, as a run does that is resumed.

Rows whose prompts begin alike, as those of the samples of one problem do, share the pages that the beginning fills: the
first of them reads it, nobody writes it again, and the page is free when the last of them is done. The last page of a
prompt is never shared: what is written comes into it.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tessy_jax.models.cache import Pool


class Pages:
    """The pages of one cache, for the rows of this process.

    Attributes:
        table: [rows, T] the numbers of each row's pages, in order, as its shard counts them; then `pool.pages`.
    """

    def __init__(self, pool: Pool, rows: int, length: int, ways: int, shards: int):
        """Nobody has a page yet.

        Args:
            rows: of this process; at most `length` tokens each.
            ways: into how many parts all rows are split.
            shards: how many of these are this process's.
        """
        self.pool, self._rows = pool, rows
        self.table = np.full((rows, pool.of(length)), pool.pages, np.int32)
        self._shards = [_Shard(pool.pages // ways) for _ in range(shards)]
        self._prompts, self._sealed = np.zeros(rows, int), np.zeros(rows, int)  # pages of each row

    @property
    def writable(self) -> np.ndarray:
        """The table without the pages that are only read."""
        sealed = np.arange(self.table.shape[1]) < self._sealed[:, None]
        return np.where(sealed, self.pool.pages, self.table).astype(np.int32)

    @property
    def taken(self) -> int:
        """Pages that some row has."""
        return sum(len(shard.users) for shard in self._shards)

    def free(self, row: int) -> int:
        """Pages that nobody has in the row's shard."""
        return len(self._of(row).free)

    def held(self, row: int) -> int:
        """Pages that the row has."""
        return int(np.sum(self.table[row] < self.pool.pages))

    def needed(self, tokens: int) -> int:
        """Pages of a row of so many tokens."""
        return min(self.pool.of(tokens), self.table.shape[1])

    def hold(self, row: int, tokens: int) -> None:
        """Gives the row the pages for so many tokens, which must be free, or takes those that are too many."""
        held, needed, shard = self.held(row), self.needed(tokens), self._of(row)
        for at in range(held, needed):
            self.table[row, at] = shard.take()
        for at in range(held - 1, needed - 1, -1):
            shard.give_back(int(self.table[row, at]))
            self.table[row, at] = self.pool.pages
        for pages in (self._prompts, self._sealed):
            pages[row] = min(pages[row], needed)

    def share(self, row: int, prompt: Sequence[int]) -> int:
        """Gives a row without pages those of others that begin as its prompt does; returns tokens."""
        shard, before = self._of(row), -1
        for at, tokens in enumerate(self._full(prompt)):
            page = shard.known.get((before, tokens))
            if page is None:
                break
            shard.users[page] += 1
            self.table[row, at] = before = page
        self._sealed[row] = held = self.held(row)
        return held * self.pool.page

    def offer(self, row: int, prompt: Sequence[int]) -> None:
        """Lets others share the pages that the row's prompt fills; the row is to read it before they do."""
        shard, before, full = self._of(row), -1, self._full(prompt)
        for page, tokens in zip(self.table[row].tolist(), full, strict=False):
            shard.name(page, (before, tokens))
            before = page
        self._prompts[row] = len(full)

    def seal(self) -> None:
        """All prompts have been read: nobody writes the pages that they fill again."""
        self._sealed = self._prompts.copy()

    def shard(self, row: int) -> int:
        """Which part of the pool the row's pages come from."""
        return row * len(self._shards) // self._rows

    def _of(self, row: int) -> "_Shard":
        return self._shards[self.shard(row)]

    def _full(self, prompt: Sequence[int]) -> list[tuple[int, ...]]:
        """What stands in the pages that the prompt fills; its last token is read with what is written behind it."""
        page = self.pool.page
        return [tuple(prompt[at : at + page]) for at in range(0, len(prompt) - page, page)]


_Beginning = tuple[int, tuple[int, ...]]
"""What stands in a page that can be shared: the page before it (-1: none), and its tokens."""


class _Shard:
    """One part of a pool.

    Attributes:
        free: pages that nobody has.
        users: how many rows have a page.
        known: the pages that can be shared.
    """

    def __init__(self, pages: int):
        self.free = list(range(pages))[::-1]
        self.users = Counter[int]()
        self.known: dict[_Beginning, int] = {}
        self._names: dict[int, _Beginning] = {}

    def take(self) -> int:
        """A page that nobody has."""
        page = self.free.pop()
        self.users[page] = 1
        return page

    def name(self, page: int, beginning: _Beginning) -> None:
        """Says what will stand in a page."""
        if self.known.setdefault(beginning, page) == page:
            self._names[page] = beginning

    def give_back(self, page: int) -> None:
        """A row lets go of a page; it is free if no other has it."""
        self.users[page] -= 1
        if not self.users[page]:
            del self.users[page]
            self.free.append(page)
            if beginning := self._names.pop(page, None):
                del self.known[beginning]


class RowPages:
    """The pages of rows in several caches: a row gets what it needs in all of them, or nothing."""

    def __init__(self, caches: Sequence[Pages | None]):
        """None: that cache has no pages."""
        self.caches = caches

    @property
    def taken(self) -> int:
        """Pages that some row has, of all caches."""
        return sum(pages.taken for pages in self.caches if pages is not None)

    def begin(
        self, row: int, prompts: Sequence[Sequence[int]], tokens: Sequence[int], spare: int = 0
    ) -> list[int] | None:
        """Gives a new row the pages for so many tokens in each cache, first those that it can share; None: they, and
        `spare` more, are not there. Returns how many tokens of each prompt are shared: who shares more reads later.
        """
        both = list(zip(self.caches, prompts, strict=True))
        shared = [0 if pages is None else pages.share(row, prompt) for pages, prompt in both]
        if not self.hold(row, tokens, spare):
            self.release(row)
            return None
        for pages, prompt in both:
            if pages is not None:
                pages.offer(row, prompt)
        return shared

    def hold(self, row: int, tokens: Sequence[int], spare: int = 0) -> bool:
        """Gives the row the pages for so many tokens in each cache; whether they, and `spare` more, are there."""
        both = [(pages, size) for pages, size in zip(self.caches, tokens, strict=True) if pages is not None]
        more = [pages.needed(size) - pages.held(row) + spare for pages, size in both]
        if any(0 < wanted > pages.free(row) for (pages, _), wanted in zip(both, more, strict=True)):
            return False
        for pages, size in both:
            pages.hold(row, size)
        return True

    def seal(self) -> None:
        """All prompts have been read: nobody writes the pages that they fill again."""
        for pages in self.caches:
            if pages is not None:
                pages.seal()

    def share(self, row: int, other: int) -> bool:
        """Whether two rows have pages of the same part of a pool."""
        return all(pages is None or pages.shard(row) == pages.shard(other) for pages in self.caches)

    def release(self, row: int) -> None:
        """Takes all pages of the row."""
        self.hold(row, [0] * len(self.caches))
