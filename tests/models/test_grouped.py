"""What multiplies rows by the matrices of their experts: kernels for plain ones, one by one for packed ones."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tessy_jax import models
from tessy_jax.models.formats.fp8 import BlockFp8
from tessy_jax.models.formats.int8 import Int8StackedLinear
from tessy_jax.models.formats.mx import Mxfp4, Mxint8
from tessy_jax.models.grouped import KERNELS, one_by_one
from tessy_jax.models.moe import StackedLinear
from tessy_jax.models.sharding import Dim
from tests.kit import tiny
from tests.models.test_mesh import mesh_of, run

EXPERTS, INSIDE, OUTSIDE = 4, 256, 256
DIMS = (Dim(EXPERTS), Dim(INSIDE), Dim(OUTSIDE))


class Packed(nnx.Module):
    """A stack of GPT-OSS."""

    def __init__(self, packing: Mxfp4 | Mxint8):
        experts, inside, outside = DIMS
        self.packing = packing
        self.blocks, self.scales = packing.matrices("w", experts, outside, inside)

    def __call__(self, rows: Any, sizes: Any, _: Any) -> Any:
        stacks = (self.blocks[...], self.scales[...])
        return one_by_one(rows, stacks, sizes, OUTSIDE, lambda e: self.packing.opened(*e, rows.dtype))


STACKS: dict[str, Callable[[], nnx.Module]] = {
    "int8": lambda: Int8StackedLinear(StackedLinear(*DIMS)),
    "fp8": lambda: BlockFp8(128, 128).stacked(*DIMS),
    "mxfp4": lambda: Packed(Mxfp4()),
    "mxint8": lambda: Packed(Mxint8(packed=True)),
}


@pytest.mark.parametrize("stored", STACKS)
def test_a_loop_of_steps_never_holds_all_experts_unpacked(stored: str) -> None:
    """XLA would unpack them once, before the loop."""
    layers = [nnx.split(STACKS[stored]()) for _ in range(6)]

    def decode_steps(params: list[Any], x: Any) -> Any:
        def step(_: Any, x: Any) -> Any:
            for (graph, _), values in zip(layers, params, strict=True):
                x = jnp.tanh(nnx.merge(graph, values)(x, jnp.full(EXPERTS, 2), KERNELS["xla"]))
            return x

        return jax.lax.fori_loop(0, 10, step, x)

    shapes = [params for _, params in layers]
    compiled = jax.jit(decode_steps).lower(shapes, jax.ShapeDtypeStruct((8, INSIDE), jnp.float32)).compile()
    one = INSIDE * OUTSIDE * 4
    taken = compiled.memory_analysis().temp_size_in_bytes
    print(f"{stored}: {taken / one:.1f} matrices")
    # 1.5 here: the decoded form, and what decoding takes; fp8 7.5: on a CPU also the stacks once more, in bytes.
    assert taken < 12 * one  # all of them are 24


def test_another_kernel_gives_the_same(tmp_path: Path) -> None:
    """Tokamax, which on a CPU has its own XLA form: on one device and on a mesh, in a whole model."""
    tiny.qwen3_moe(tmp_path, vocab_size=90)
    expected, _ = run(models.load(tmp_path), None, models.INFERENCE)
    got, _ = run(models.load(tmp_path, kernel="tokamax"), None, models.INFERENCE)
    assert np.abs(got - expected).max() <= 1e-5
    mesh = mesh_of(fsdp=2, tensor=2, expert=2)
    split, _ = run(models.load(tmp_path, kernel="tokamax", mesh=mesh), mesh, models.INFERENCE)
    assert np.abs(split - expected).max() <= 1e-4


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_the_kernel_is_called(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(tiny, family)(tmp_path, vocab_size=90)
    calls = []

    def kernel(rows: Any, weights: Any, sizes: Any) -> Any:
        calls.append(weights.shape)
        return jax.lax.ragged_dot(rows, weights, sizes)

    monkeypatch.setitem(KERNELS, "tokamax", kernel)
    run(models.load(tmp_path, kernel="tokamax"), None, models.INFERENCE)
    assert calls
    assert {shape[0] for shape in calls} == {6}


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("qwen3", {}, "experts: tokamax: the model has no experts. Leave it out."),
        (
            "gpt_oss_mxfp4",
            {},
            "experts: tokamax: the experts are packed, in 8 bits or fewer; only xla multiplies those.",
        ),
        (
            "qwen3_moe",
            {"int8": True},
            "experts: tokamax: the experts are packed, in 8 bits or fewer; only xla multiplies those.",
        ),
    ],
)
def test_where_a_kernel_has_nothing_to_do(tmp_path: Path, family: str, settings: dict[str, Any], message: str) -> None:
    getattr(tiny, family)(tmp_path)
    with pytest.raises(models.ModelConfigError) as error:
        models.load(tmp_path, kernel="tokamax", **settings)
    assert str(error.value) == message


def test_a_kernel_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.qwen3_moe(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(models.ModelConfigError) as error:
        models.load(tmp_path, kernel="tokamax")
    assert str(error.value) == "experts: tokamax: it is not installed: pip install 'tessy_jax[kernels]'"


def test_a_kernel_that_does_not_exist(tmp_path: Path) -> None:
    tiny.qwen3_moe(tmp_path)
    with pytest.raises(models.ModelConfigError) as error:
        models.load(tmp_path, kernel="fast")
    assert str(error.value) == "experts: fast: there is no such kernel. Use one of: xla, tokamax."
