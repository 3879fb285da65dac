"""Every array that enters or leaves a function of the package is compared with its annotation, while the tests run.

jaxtyping's import hook wraps each function and dataclass of a module as it is imported, by calling `check`.
"""

import functools
import inspect
import operator
import os
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

from tests.kit import ROOT

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, is_random=False))


def install() -> None:
    """Check the package's shapes and dtypes from now on; none of its modules may be imported yet."""
    install_import_hook(list(modules()), "tests.kit.shapes.check")


def modules() -> dict[str, Path]:
    """The modules that are checked, with their files: those that import jaxtyping.

    The wrapper costs some microseconds a call. The functions of `tessy_jax.text` are called most, and have strings and
    no shapes: with all modules checked their tests took twice as long (test_words and test_retokenize 320 s for 150 s).
    """
    folders = os.walk(ROOT / "tessy_jax", followlinks=True)  # models and train are links
    files = [Path(folder, name) for folder, _, names in folders for name in names if name.endswith(".py")]
    shaped = [path for path in files if "from jaxtyping import" in path.read_text()]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in shaped}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with beartype on the arrays in its hints. What else they say is mypy's to check: at run time,
    `int` would refuse NumPy's integers, and beartype knows neither `Self` in a method nor an ordinary protocol.
    """
    replace = _in_a_struct if function.__name__ == "__init__" else _keep
    hints = {name: _arrays(hint, replace) for name, hint in function.__annotations__.items()}
    function.__annotations__ = {name: hint for name, hint in hints.items() if hint is not Any}
    return _beartype(function) if function.__annotations__ else function


def _arrays(hint: Any, replace: Callable[[Any], Any]) -> Any:
    """The hint with Any for what is no array, and `replace(array)` for what is one.

    Example: Any for `int`, `tuple[Float[Array, "B"], Any]` for `tuple[Float[Array, "B"], Self]`; `Float[Array, "B"] |
    None` stays.
    """
    if inspect.isclass(hint) and issubclass(hint, AbstractArray | jax.Array | np.ndarray):
        return replace(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Callable:  # beartype does not call what it is given
        return Any
    arrays = [_arrays(part, replace) for part in parts]
    if all(array is Any for array in arrays):
        return Any
    if origin in (Union, UnionType):
        return functools.reduce(
            operator.or_, (part if array is Any else array for part, array in zip(parts, arrays, strict=True))
        )
    return origin[tuple(... if part is ... else array for part, array in zip(parts, arrays, strict=True))]


def _keep(array: Any) -> Any:
    """The hint; NumPy's arrays may stand where JAX's are declared, as they may in every function of JAX."""
    if issubclass(array, AbstractArray) and array.array_type is jax.Array:
        return array.dtype[jax.Array | np.ndarray, array.dim_str]
    return (jax.Array | np.ndarray) if array is jax.Array else array


def _in_a_struct(array: Any) -> Any:
    """What may stand where a dataclass declares an array. JAX calls `__init__` too when it rebuilds a pytree, with
    NumPy, shapes, shardings or objects of its own for the arrays, and with an axis more where a scan or a map stacks
    them: so whatever has a shape must end with the declared one
    (https://docs.jax.dev/en/latest/custom_pytrees.html, "Custom pytrees and initialization").
    """
    if not issubclass(array, AbstractArray):
        return Any
    more = "" if "*" in array.dim_str or "..." in array.dim_str else "... "
    return array.dtype[Any, more + array.dim_str] | _NoArray


class _Shapeless(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return not hasattr(value, "shape")


class _NoArray(metaclass=_Shapeless):
    """Everything without a shape."""
