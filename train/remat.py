"""Rematerialisation: what the forward pass keeps of a block for the backward pass, and when gradients are formed."""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tessy_jax import models
from tessy_jax.models.decoder import BlockCall
from tessy_jax.models.key_values import KeyValues
from tessy_jax.models.rope import Rotation

REMAT: dict[str, BlockCall] = {
    "none": models.call_block,
    "block": jax.checkpoint(models.call_block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint(models.call_block),
}
"""Which activations of a block are kept for the backward pass; it computes the others again.

none: all are kept (fastest). block: outputs of weight matrices. full: the block's input alone (least memory, a third
more work).
"""


def in_turn(remat: str, mesh: Mesh | None, rules: models.Rules) -> BlockCall:
    """How a train step calls a block: the backward pass forms all gradients of a block before it goes on to the block
    below, and puts the gradients of parameters where the parameters are.

    Without this a compiler may form the gradients of the weights later, because nothing waits for them, and until then
    it keeps what they are made of. For Qwen3-8B with rows of 40,960 tokens on a v5p these are two more arrays [T, F] in
    each layer: the step's temporaries (36 layers, remat "full") are 98.3 GiB a chip, and 33.8 GiB with this (libtpu
    0.0.42.1).

    Args:
        remat: key of `REMAT`.
        mesh: the devices; None: one.
        rules: where parameters lie on the mesh.
    """

    def apply(
        block: nnx.Module, x: Float[Array, "B T D"], rotation: Rotation, positions: Int[Array, "B T"], memory: KeyValues
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        block, x = _together((block, x))
        return REMAT[remat](_in_place(block, mesh, rules), x, rotation, positions, memory)

    return apply


def _in_place(block: nnx.Module, mesh: Mesh | None, rules: models.Rules) -> nnx.Module:
    """The same block, its parameters constrained to where the rules put them; their gradients then are too."""
    if mesh is None:
        return block
    graph, params = nnx.split(block)

    def pin(param: Any) -> Any:
        sharding = models.sharding_for(mesh, rules, param.get_metadata()["dims"], "parameter")
        return param.replace(jax.lax.with_sharding_constraint(param[...], sharding))

    pinned = jax.tree.map(pin, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
    return nnx.merge(graph, pinned)


@jax.custom_vjp
def _together(inputs: Any) -> Any:
    """Returns its inputs. In the backward pass none of their gradients is used before all of them are formed."""
    return inputs


_together.defvjp(lambda inputs: (inputs, None), lambda _, gradients: (jax.lax.optimization_barrier(gradients),))
