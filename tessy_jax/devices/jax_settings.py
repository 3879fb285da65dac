"""What JAX may take from the environment: never what changes a record or a weight, or ends a command in a traceback.

A cluster's profile or a debugging session leaves variables behind that JAX reads when it is imported. A command sets
those of `SETTINGS` to what it was written for, before anything is computed, and says which ones it did not follow.
Variables that are not in the table are followed: which devices there are (`JAX_PLATFORMS`, `CUDA_VISIBLE_DEVICES`),
how programs are compiled and stored (`XLA_FLAGS`, `JAX_COMPILATION_CACHE_DIR`), what is logged.

This module imports no JAX: it must come before.
"""

import os
import sys
import traceback
from collections.abc import MutableMapping
from glob import glob
from typing import NamedTuple

from tessy_jax.errors import UserError

Value = bool | int | str | None


class Setting(NamedTuple):
    """A setting of JAX that is ours.

    Attributes:
        variable: of the environment; the name in `jax.config` is the same in lower case.
        value: what it must be; None: unset.
        why: what another value does, for the table in docs/environment.md.
    """

    variable: str
    value: Value
    why: str


_RANDOM, _NUMBERS, _DEBUGGING = "other random numbers", "other numbers in models and training", "for debugging"

SETTINGS = (
    Setting("JAX_ENABLE_X64", False, "64-bit numbers where 32-bit ones are meant"),
    Setting("JAX_EXPLICIT_X64_DTYPES", "warn", "64-bit numbers where 32-bit ones are meant, or an error"),
    Setting("JAX_NUMPY_DTYPE_PROMOTION", "standard", "an error where two dtypes meet"),
    Setting("JAX_NUMPY_RANK_PROMOTION", "allow", "an error or a warning where two ranks meet"),
    Setting("JAX_DEFAULT_PRNG_IMPL", "threefry2x32", _RANDOM),
    Setting("JAX_THREEFRY_PARTITIONABLE", True, _RANDOM),
    Setting("JAX_RANDOM_SEED_OFFSET", 0, _RANDOM),
    Setting("JAX_HIGH_DYNAMIC_RANGE_GUMBEL", False, _RANDOM),
    Setting("JAX_ENABLE_CUSTOM_PRNG", False, "another type of random keys"),
    Setting("JAX_LEGACY_PRNG_KEY", "allow", "an error or a warning where keys are stored"),
    Setting("JAX_DEFAULT_MATMUL_PRECISION", None, _NUMBERS),
    Setting("JAX_SOFTMAX_CUSTOM_JVP", False, _NUMBERS),
    Setting("JAX_USE_DIRECT_LINEARIZE", True, _NUMBERS),
    Setting("JAX_DISABLE_MOST_OPTIMIZATIONS", False, _NUMBERS),
    Setting("JAX_ALLOW_F16_REDUCTIONS", True, "an error where bfloat16 numbers are summed"),
    Setting("JAX_DISABLE_JIT", False, f"{_DEBUGGING}: hours instead of seconds"),
    Setting("JAX_DEBUG_NANS", False, f"{_DEBUGGING}: an error where a NaN is masked afterwards"),
    Setting("JAX_DEBUG_INFS", False, f"{_DEBUGGING}: an error at every mask"),
    Setting("JAX_DEBUG_KEY_REUSE", False, f"{_DEBUGGING}: an error where a key is used for two purposes"),
    Setting("JAX_CHECK_TRACER_LEAKS", False, f"{_DEBUGGING}: slow, and finds leaks where there are none"),
    Setting("JAX_NO_TRACING", False, f"{_DEBUGGING}: an error at the first program"),
    Setting("JAX_NO_EXECUTION", False, f"{_DEBUGGING}: an error at the first program"),
    Setting("JAX_THREAD_GUARD", False, f"{_DEBUGGING}: an error where two threads use JAX"),
    Setting("JAX_TRANSFER_GUARD", None, f"{_DEBUGGING}: an error where arrays move between host and device"),
    Setting("JAX_TRANSFER_GUARD_HOST_TO_DEVICE", None, "as JAX_TRANSFER_GUARD"),
    Setting("JAX_TRANSFER_GUARD_DEVICE_TO_HOST", None, "as JAX_TRANSFER_GUARD"),
    Setting("JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE", None, "as JAX_TRANSFER_GUARD"),
    Setting("JAX_ARRAY_GARBAGE_COLLECTION_GUARD", None, f"{_DEBUGGING}: ends the process, or logs much"),
    Setting("JAX_DEFAULT_DEVICE", None, "contradicts `mesh`; to choose devices there is JAX_PLATFORMS"),
    Setting("JAX_DISALLOW_MESH_CONTEXT_MANAGER", False, "an error where a model is spread over devices"),
    Setting("JAX_REMOVE_SIZE_ONE_MESH_AXIS_FROM_TYPE", False, "an error where a model is spread over devices"),
)
"""The table. Each value is the default of JAX 0.10.2, and stays what it is when JAX changes its default. Products of
float32 name their precision themselves (models/products.py)."""


WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # or it asks the network what machine this is
    "TPU_ACCELERATOR_TYPE": "v6e-8",  # or it complains that nobody told; slices of other chips compile all the same
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or its lock refuses a second plan at the same time
}
"""What libtpu reads of the environment when it starts, so that it is quiet, and compiles, without a TPU."""


def settle(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Sets all of `SETTINGS`; returns a line for the user for each that the environment wants otherwise.

    Where JAX is imported already, because a program calls a command, its configuration is changed too. On a machine
    without a TPU, libtpu is kept from complaining about that.
    """
    notes = []
    for setting in SETTINGS:
        theirs = environment.get(setting.variable)
        if theirs is not None and not _means(theirs, setting.value):
            notes.append(f"note: {setting.variable}={theirs} is not followed ({setting.why}; docs/environment.md)")
        if setting.value is None:
            environment.pop(setting.variable, None)
        else:
            environment[setting.variable] = _written(setting.value)
    if jax := sys.modules.get("jax"):
        for setting in SETTINGS:
            name = setting.variable.lower()
            if name in jax.config.values and jax.config.values[name] != setting.value:
                jax.config.update(name, setting.value)
    if not _may_have_tpu(environment):
        for variable, value in WITHOUT_A_TPU.items():
            environment.setdefault(variable, value)
    return notes


def explain(error: Exception) -> UserError | None:
    """What to say where JAX refuses another variable, or has none of the devices that it is told to use.

    None: the error is a different one.
    """
    raised_by = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, ValueError) and raised_by.filename.endswith("jax/_src/config.py") and "jax" not in sys.modules:
        return UserError(f"JAX does not start: {error}; mend or unset this variable of the environment")
    if isinstance(error, RuntimeError) and str(error).startswith("Unable to initialize backend"):
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].partition("\n")[0].rstrip(".")
    elif isinstance(error, AssertionError) and raised_by.name == "backends":
        reason = "this machine has no such device"  # JAX's own message: an assertion without words
    else:
        return None
    wanted = sys.modules["jax"].config.jax_platforms
    asked = f"JAX_PLATFORMS={wanted}" if wanted else "JAX"
    return UserError(f"{asked}: {reason}; there is {_platforms()}: set JAX_PLATFORMS to that, or unset it")


def _platforms() -> str:
    """The platforms that JAX finds on this machine."""
    import jax
    from jax.extend import backend

    jax.config.update("jax_platforms", None)
    backend.clear_backends()
    try:
        return ", ".join(sorted(backend.backends()))
    except RuntimeError:  # the reason is said already
        return "cpu"


def _may_have_tpu(environment: MutableMapping[str, str]) -> bool:
    """Whether this machine has a TPU, by its device files, or the environment says so."""
    asked = "tpu" in environment.get("JAX_PLATFORMS", "") or "JAX_FORCE_TPU_INIT" in environment
    return asked or bool(glob("/dev/accel*") or glob("/dev/vfio/[0-9]*"))


def _written(value: bool | int | str) -> str:
    return str(int(value)) if isinstance(value, bool | int) else value


def _means(text: str, value: Value) -> bool:
    """Whether JAX reads this text as that value."""
    if isinstance(value, bool):
        return text.lower() in (
            ("y", "yes", "t", "true", "on", "1") if value else ("n", "no", "f", "false", "off", "0")
        )
    return value is not None and text == _written(value)
