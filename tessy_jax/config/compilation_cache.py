"""Where compiled programs are kept between commands."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tessy_jax.config.schema import OutputPath


def user_folder() -> Path:
    """Where `JAX_COMPILATION_CACHE_DIR` says, or else `tessy_jax/jax` in the user's folder of caches."""
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    caches = os.environ.get("XDG_CACHE_HOME", "")  # a relative one does not count (XDG Base Directory Specification)
    return (Path(caches) if os.path.isabs(caches) else Path("~/.cache").expanduser()) / "tessy_jax" / "jax"


CompilationCache = Annotated[
    OutputPath | None,
    Field(
        default_factory=user_folder,
        description="Folder for compiled programs; default: $XDG_CACHE_HOME/tessy_jax/jax; null: none.",
    ),
]
