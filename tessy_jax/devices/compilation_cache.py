"""JAX's compilation cache: a command's second start compiles less. Without it everything works, only later."""

import hashlib
import logging
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.experimental.compilation_cache import compilation_cache

from tessy_jax.devices.cache_files import keep_whole_files
from tessy_jax.devices.host_callbacks import keep_programs_with_callbacks
from tessy_jax.storage.places import user_caches

log = logging.getLogger(__name__)

_FAILURES = ("Error reading persistent compilation cache", "Error writing persistent compilation cache")
"""How JAX's warnings begin, one for each program."""


class Section(Protocol):
    """The section of a configuration that has the key `compilation_cache`."""

    @property
    def compilation_cache(self) -> Path | None: ...
    @property
    def model_fields_set(self) -> set[str]: ...


def use(section: Section) -> None:
    """Keeps compiled programs in the folder that the section names; None: nowhere; by default in the user's.

    Several processes use a folder only where the configuration names it: JAX lets the first one write alone, so one
    that they do not share would serve none of the others. A folder that cannot be written is not used, and a line says
    so.
    """
    folder = section.compilation_cache
    if "compilation_cache" not in section.model_fields_set:
        if os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # which JAX follows by itself, into a bucket too
            _improve()
            return
        folder = user_folder() if jax.process_count() == 1 else None
    if folder is not None and (reason := _unusable(folder)):
        log.warning("%s: compiled programs are not kept: %s (compilation_cache names another folder)", folder, reason)
        folder = None
    wanted = None if folder is None else str(folder)
    if jax.config.values["jax_compilation_cache_dir"] != wanted:
        jax.config.update("jax_compilation_cache_dir", wanted)
        compilation_cache.reset_cache()  # or what this process has compiled before has settled the folder
    if folder is not None:
        _improve()
        _say_failures_once(folder)


def _improve() -> None:
    """JAX's cache keeps more, and keeps it whole."""
    keep_programs_with_callbacks()
    keep_whole_files()


def user_folder() -> Path:
    """`tessy_jax/jax/<CPU>` in the user's folder of caches."""
    return user_caches() / "jax" / _cpu()


def _cpu() -> str:
    """A name for this machine's instructions: they may share a home, and a program ends in SIGILL on a lesser CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _unusable(folder: Path) -> str | None:
    """Why the folder cannot be written; None where it can. It is made where it is not there."""
    try:
        # Whoever can write there has programs of theirs run by the user's processes.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _say_failures_once(folder: Path) -> None:
    """One line for all that goes wrong with the folder from here on, a disk that fills up for example."""
    show, said = warnings.showwarning, False

    def show_once(message: Warning | str, *more: Any, **named: Any) -> None:
        nonlocal said
        if not str(message).startswith(_FAILURES):
            show(message, *more, **named)
        elif not said:
            said = True
            reason = str(message).partition("': ")[2] or str(message)
            log.warning("%s: a compiled program was not read or kept: %s; it is compiled anew", folder, reason)

    warnings.showwarning = show_once
