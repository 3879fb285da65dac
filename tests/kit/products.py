"""The matrix products of a traced program, with the precision that each asks for."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def float32_products(function: Any, *args: Any) -> list[str]:
    """The products of two float32 factors in `function(*args)` that do not ask for all of their bits; at least one must
    ask for them.
    """
    equations = list(_equations(jax.make_jaxpr(function)(*args).jaxpr))
    found = [one for one in equations if all(x.aval.dtype == jnp.float32 for x in one.invars[:2])]
    assert found, "no product of float32"
    return [str(one) for one in found if set(one.params["precision"] or [None]) != {lax.Precision.HIGHEST}]


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "ragged_dot", "ragged_dot_general"):
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
