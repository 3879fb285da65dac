"""Where compiled programs are kept between commands."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tessy_jax.config.schema import OutputPath


def user_folder() -> Path:
    """Where `JAX_COMPILATION_CACHE_DIR` says, or else `tessy_jax/jax/<CPU>` in the user's folder of caches."""
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    caches = os.environ.get("XDG_CACHE_HOME", "")  # a relative one does not count (XDG Base Directory Specification)
    root = Path(caches) if os.path.isabs(caches) else Path("~/.cache").expanduser()
    return root / "tessy_jax" / "jax" / _cpu()


def _cpu() -> str:
    """A name for this machine's instructions: they may share a home, and a program ends in SIGILL on a lesser CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


CompilationCache = Annotated[
    OutputPath | None,
    Field(description="Folder for compiled programs; default: tessy_jax/jax in the user's caches; null: none."),
]
