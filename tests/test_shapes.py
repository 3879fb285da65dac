"""Shapes and dtypes are checked while the tests run: everywhere, and a wrong one is an error."""

import ast
import importlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import TypeCheckError

from tessy_jax.cooperate.sampling import uniforms
from tessy_jax.cooperate.state import Stream
from tessy_jax.models.attention import dense
from tessy_jax.text_jax.arrays import gather
from tessy_jax.train.loss import token_losses
from tests.kit import shapes


def floats(*shape: int) -> jax.Array:
    return jnp.zeros(shape)


def ints(*shape: int) -> jax.Array:
    return jnp.zeros(shape, jnp.int32)


CALLS = {
    "models": (dense, [floats(2, 3, 4, 8), floats(2, 5, 2, 8), floats(2, 5, 2, 8), jnp.ones((2, 3, 5), bool)]),
    "train": (token_losses, [floats(3, 7, 16), floats(11, 16), ints(3, 7)]),
    "cooperate": (uniforms, [jnp.zeros((4, 2), jnp.uint32), ints(4)]),
    "text_jax": (gather, [floats(3, 9), ints(3, 2)]),
}
"""A function of each room, with arrays that fit."""

OPTIONS: dict[str, dict[str, Any]] = {"models": {"scale": 1.0}, "train": {"chunk": 4}, "cooperate": {"author": 0}}
"""Its other arguments."""


@pytest.mark.parametrize("room", CALLS)
def test_a_wrong_shape_or_dtype_raises(room: str) -> None:
    """One array of each call in turn: with an axis more, and as complex numbers, which nothing here takes."""
    (function, arrays), options = CALLS[room], OPTIONS.get(room, {})
    assert function.__module__.split(".")[:2] == ["tessy_jax", room]
    function(*arrays, **options)
    for i, array in enumerate(arrays):
        if (function, i) == (gather, 0):  # takes any array
            continue
        for wrong in (array[None], array.astype(complex)):
            with pytest.raises(TypeCheckError):
                function(*arrays[:i], wrong, *arrays[i + 1 :], **options)


def test_an_axis_has_one_length_in_a_call() -> None:
    with pytest.raises(TypeCheckError, match="targets"):
        token_losses(floats(3, 7, 16), floats(11, 16), ints(3, 8), 4)


def test_traced_arrays_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="index"):
        jax.jit(gather)(floats(3, 9), ints(3))


def test_structs_are_checked_where_they_hold_arrays() -> None:
    """JAX rebuilds them with whatever a tree map returns; arrays of one axis length per name are still asked for."""
    stream = Stream(ints(2, 5), ints(2, 5), *[ints(2)] * 5)
    with pytest.raises(TypeCheckError, match="ends"):
        stream.replace(ends=ints(2, 6))
    with pytest.raises(TypeCheckError, match="base"):
        stream.replace(base=floats(2))
    for leaf in (None, PartitionSpec("data"), object()):
        jax.tree.map(lambda _, leaf=leaf: leaf, stream)
    assert jax.eval_shape(lambda: stream).tokens == jax.ShapeDtypeStruct((2, 5), jnp.int32)


def test_every_module_with_shapes_is_checked() -> None:
    """None was imported before the hook was there."""
    for name in shapes.modules():
        loader = importlib.import_module(name).__loader__
        assert type(loader).__module__.startswith("jaxtyping"), name


def test_no_shape_is_beside_a_name_in_quotes() -> None:
    """jaxtyping checks nothing of a hint with a name that is not defined yet: `tuple[Float[Array, "B"], "Cache"]`."""
    for path in shapes.modules().values():
        for hint in hints(ast.parse(path.read_text())):
            shaped = [part for part in ast.walk(hint) if is_shaped(part)]
            strings = {
                part for part in ast.walk(hint) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
            quoted = strings - {part for shape in shaped for part in ast.walk(shape)}
            assert not (shaped and quoted), f"{path}:{hint.lineno}: {ast.unparse(hint)}"


def hints(module: ast.Module) -> Iterator[ast.expr]:
    """The annotations of arguments, attributes and results."""
    for node in ast.walk(module):
        found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        yield from (hint for hint in found if hint is not None)


def is_shaped(hint: ast.AST) -> bool:
    """Whether it is `Float[Array, "B"]` or the like."""
    return isinstance(hint, ast.Subscript) and isinstance(hint.value, ast.Name) and hasattr(jaxtyping, hint.value.id)
