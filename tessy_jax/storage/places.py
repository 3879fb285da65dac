"""Where this machine keeps what can be had again."""

import os
from pathlib import Path


def user_caches() -> Path:
    """`tessy_jax` in the user's folder of caches."""
    caches = os.environ.get("XDG_CACHE_HOME", "")  # a relative one does not count (XDG Base Directory Specification)
    root = Path(caches) if os.path.isabs(caches) else Path("~/.cache").expanduser()
    return root / "tessy_jax"
