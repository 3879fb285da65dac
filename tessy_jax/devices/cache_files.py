"""Files of JAX's compilation cache, each there whole or not at all.

JAX writes a program's file in place, and never again where it exists. Of a process that is killed meanwhile half a file
would stay, at which every later start warns and compiles anew; another process may read it half written, too.
"""

import functools
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)


def keep_whole_files() -> None:
    """From now on JAX's cache writes a file, then renames it; where JAX is not as this was written for, as before."""
    from jax._src import lru_cache  # JAX has no public name for it

    put = getattr(getattr(lru_cache, "LRUCache", None), "put", None)
    if hasattr(put, "__wrapped__"):
        return
    if put is None or getattr(lru_cache, "_CACHE_SUFFIX", None) != "-cache":
        log.debug("jax %s: a file of the compilation cache is written in place", jax.__version__)
        return
    cache: Any = lru_cache.LRUCache
    cache.put = _renamed(put)


def _renamed(put: Callable[[Any, str, bytes], None]) -> Callable[[Any, str, bytes], None]:
    """JAX's function, which then writes under a name that nobody reads."""

    @functools.wraps(put)
    def run(cache: Any, key: str, value: bytes) -> None:
        folder = Path(str(cache.path))
        file, part = folder / f"{key}-cache", f"{key}-{uuid.uuid4().hex}"
        if cache.eviction_enabled or not folder.is_dir() or file.exists():  # no folder: a bucket
            return put(cache, key, value)
        try:
            put(cache, part, value)
            os.replace(folder / f"{part}-cache", file)
        finally:
            (folder / f"{part}-cache").unlink(missing_ok=True)

    return run
