"""Who has which pages of the caches: rows take them as they grow and give them back (PagedAttention, arXiv 2309.06180).

A dispatch takes no page: before it the host gives each row those for the tokens that it may read next. Where they run
short, the youngest row gives its own back and waits; it begins again where it was, as a run does that is resumed.
"""

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
        self.pool, self._rows, self._shards = pool, rows, shards
        self.table = np.full((rows, pool.of(length)), pool.pages, np.int32)
        self._free = [list(range(pool.pages // ways))[::-1] for _ in range(shards)]

    def free(self, row: int) -> int:
        """Pages that nobody has in the row's shard."""
        return len(self._free_of(row))

    def held(self, row: int) -> int:
        """Pages that the row has."""
        return int(np.sum(self.table[row] < self.pool.pages))

    def needed(self, tokens: int) -> int:
        """Pages of a row of so many tokens."""
        return min(self.pool.of(tokens), self.table.shape[1])

    def hold(self, row: int, tokens: int) -> None:
        """Gives the row the pages for so many tokens, which must be free, or takes those that are too many."""
        free, held, needed = self._free_of(row), self.held(row), self.needed(tokens)
        for at in range(held, needed):
            self.table[row, at] = free.pop()
        for at in range(held - 1, needed - 1, -1):
            free.append(int(self.table[row, at]))
            self.table[row, at] = self.pool.pages

    def shard(self, row: int) -> int:
        """Which part of the pool the row's pages come from."""
        return row * self._shards // self._rows

    def _free_of(self, row: int) -> list[int]:
        return self._free[self.shard(row)]


class RowPages:
    """The pages of rows in several caches: a row gets what it needs in all of them, or nothing."""

    def __init__(self, caches: Sequence[Pages | None]):
        """None: that cache has no pages."""
        self.caches = caches

    def hold(self, row: int, tokens: Sequence[int], spare: int = 0) -> bool:
        """Gives the row the pages for so many tokens in each cache; whether they, and `spare` more, are there."""
        both = [(pages, size) for pages, size in zip(self.caches, tokens, strict=True) if pages is not None]
        more = [pages.needed(size) - pages.held(row) + spare for pages, size in both]
        if any(0 < wanted > pages.free(row) for (pages, _), wanted in zip(both, more, strict=True)):
            return False
        for pages, size in both:
            pages.hold(row, size)
        return True

    def share(self, row: int, other: int) -> bool:
        """Whether two rows have pages of the same part of a pool."""
        return all(pages is None or pages.shard(row) == pages.shard(other) for pages in self.caches)

    def release(self, row: int) -> None:
        """Takes all pages of the row."""
        self.hold(row, [0] * len(self.caches))
