"""Programs that call the host in JAX's compilation cache, which leaves them out: the loop calls tokenizers.

A program says "call number 1 of the list", and the list is made anew wherever the program is traced. So whoever loads
it from the cache may give the list of its own process. JAX's client can do that; its cache does not ask it to. Here it
is asked by a client that adds the list, without which JAX takes the program for one without callbacks. A second start
of a short demo takes 60 CPU seconds instead of 93 (docs/benchmarks.md).

Only for CPUs and one process: there it is tested. What JAX keeps for others is as it was.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

log = logging.getLogger(__name__)

_COMPILE = ("backend", "computation", "devices", "compile_options", "host_callbacks")
"""How the parameters of JAX's function begin."""


def keep_programs_with_callbacks() -> None:
    """From now on JAX's compilation cache keeps them too; where JAX is not as this was written for, as before."""
    from jax._src import compiler  # JAX has no public name for it

    compile_or_load = getattr(compiler, "compile_or_get_cached", None)
    if hasattr(compile_or_load, "__wrapped__"):
        return
    if compile_or_load is None or tuple(inspect.signature(compile_or_load).parameters)[: len(_COMPILE)] != _COMPILE:
        log.debug("jax %s: programs with host callbacks are compiled at every start", jax.__version__)
        return
    compiler.compile_or_get_cached = _with_callbacks(compile_or_load)


def _with_callbacks(compile_or_load: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's function, which then takes a program with callbacks for one without."""

    @functools.wraps(compile_or_load)
    def run(
        backend: Any,
        computation: Any,
        devices: Any,
        options: Any,
        host_callbacks: Sequence[Any],
        *more: Any,
        **named: Any,
    ) -> Any:
        if host_callbacks and backend.platform == "cpu" and jax.process_count() == 1:
            backend, host_callbacks = _Client(backend, host_callbacks), ()
        return compile_or_load(backend, computation, devices, options, host_callbacks, *more, **named)

    return run


@dataclass(frozen=True)
class _Client:
    """JAX's client for a program that calls these functions of this process."""

    client: Any
    host_callbacks: Sequence[Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def compile_and_load(self, *args: Any, **named: Any) -> Any:
        return self.client.compile_and_load(*args, **named, host_callbacks=self.host_callbacks)

    def deserialize_executable(self, *args: Any, **named: Any) -> Any:
        return self.client.deserialize_executable(*args, **named, host_callbacks=self.host_callbacks)
