"""`python -m tessy_jax.plan`: memory by kind, what fits, and what is said where it does not."""

import importlib.util
import json

import jax
import pytest
import yaml

from tessy_jax import models, plan
from tessy_jax.config.synthesize import load_config
from tessy_jax.errors import ConfigError
from tessy_jax.planning.compile import _refusal, _seconds
from tessy_jax.planning.hlo_traffic import repetition, traffic
from tessy_jax.planning.limits import largest
from tessy_jax.planning.pair import plan_pair
from tessy_jax.planning.shapes import SHIPPED, read_shapes
from tessy_jax.planning.show import verdict
from tessy_jax.planning.topology import Chip, Topology
from tessy_jax.storage.copies import read_file
from tessy_jax.storage.paths import as_path
from tests.kit.run_synthesize import pair

#: Parameters as published (arXiv 2505.09388, table 1 and 2; the model cards), in 1e9.
PUBLISHED = {
    "Qwen/Qwen3-0.6B": 0.596,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-32B": 32.76,
    "Qwen/Qwen3-30B-A3B": 30.53,
    "Qwen/Qwen3-235B-A22B-Thinking-2507": 235.09,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 8.03,
}


class Here(Topology):
    """A slice whose chips are this machine's virtual devices."""

    def _devices(self):
        return jax.devices()


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> dict:
    """The plan of the tiny pair on two virtual devices, as the command writes it."""
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    changes = ("engine.batch=4", "mesh.data=2", "engine.context=512")  # whole blocks of slots
    assert plan.main([str(pair()), "--topology", "cpu", *changes, "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_memory_by_kind_is_what_the_compiler_counts(planned):
    dispatch = planned["programs"][0]
    scalars = 2 * 4  # two numbers that say when to return; "rows" has as much that the dispatch does not read
    assert abs(sum(planned["resident"].values()) - dispatch["arguments"]) <= 2 * scalars
    weights = models.parameter_count(models.read_config(pair().parent / "student"))
    assert planned["resident"]["weights, student"] == 4 * weights  # float32, whole on each device of mesh.data
    assert planned["total"] == sum(planned["kinds"].values())


def test_a_decode_step_moves_at_least_the_least(planned):
    for step in planned["steps"]:
        # Tiny models: activations are not small beside weights, and a CPU copies each block of a cache to multiply it.
        assert 1 <= step["moved"] / step["least"] < 5
        assert step["program"]["operations"] > 0


def test_rows_of_a_mean_length_in_pages(planned, tmp_path, capsys):
    """Two devices with 8 pages of 64 tokens each: one row of 300 tokens, which takes five."""
    file = tmp_path / "plan.json"
    changes = ["engine.batch=4", "mesh.data=2", "engine.context=512", "engine.cache_tokens=1024", "engine.page=64"]
    command = [str(pair()), "--topology", "cpu", *changes, "--tokens", "300", "--json", str(file)]
    assert plan.main(command) == 0
    found, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert found["rows"] == {"tokens": 300, "asked": 4, "held": 2}
    assert "rows in flight: 2 of 300 tokens; engine.cache_tokens holds 2" in shown
    assert "the pages are the limit: engine.batch 4 is more than they hold" in shown
    assert found["resident"]["cache, student"] < planned["resident"]["cache, student"] * 0.52
    for step, full in zip(found["steps"], planned["steps"], strict=True):
        assert (step["tokens"], full["tokens"]) == (2, 4)
        assert 1 <= step["moved"] / step["least"] < 8
        assert step["moved"] < full["moved"]
    student = found["steps"][0]
    pages = planned["resident"]["cache, student"] / 2  # half as many slots, of which two rows have 10 of 16 pages
    assert student["cache"] == pytest.approx(pages * 10 / 16, rel=0.01)


@pytest.mark.parametrize("tokens", ["0", "513"])
def test_a_length_that_no_row_has(tokens, capsys):
    assert plan.main([str(pair()), "--topology", "cpu", "engine.context=512", "--tokens", tokens]) == 2
    assert f"--tokens {tokens}: a row has 1 token at least, and engine.context 512" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("topology", "mesh", "said"),
    [
        ("cpu", ["mesh.tensor=16"], "tensor 16 is 16 devices, cpu has 8; change one axis: mesh.tensor=8"),
        ("v6e:2x4", ["mesh.data=3"], "data 3 is 3 devices, v6e:2x4 has 8; change one axis: mesh.data=8"),
        ("v6e:2x4", ["mesh.data=3", "mesh.tensor=3"], "choose axes whose product is 8"),
        ("h100:8", [], "--topology 'h100:8' is not known"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(topology, mesh, said, capsys):
    assert plan.main([str(pair()), "--topology", topology, *mesh, "engine.batch=48"]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_missing_libtpu_names_its_package(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plan.main([str(pair()), "--topology", "v6e:2x4", "mesh.data=8", "engine.batch=8"]) == 1
    assert "pip install 'tessy_jax[tpu]'" in capsys.readouterr().err.replace("\n", " ")


def test_what_does_not_fit_says_so():
    config = load_config(pair(), ["engine.batch=4", "mesh.data=2"])
    small = Here("v6e:1x2", 2, Chip(memory=8.5e-4, bandwidth=1, peak=1))  # 913 kB, where 1112 kB are needed
    found = plan_pair("pair.yaml", config, small)
    assert not found.fits
    lines = list(verdict(found))
    assert "it does not fit" in lines[0]
    assert found.limits["engine.batch"] == 2  # weights and vocabularies take 525 kB, a row 147 kB
    assert any("engine.batch or engine.context" in line for line in lines)
    saved = found.resident["cache, teacher"] - found.savings["teacher.cache=int8"]  # left: bytes and float32 scales
    assert found.resident["cache, teacher"] / 4 < saved < found.resident["cache, teacher"] / 2
    assert [line.split()[2] for line in lines[-4:]] == sorted(found.savings, key=found.savings.get, reverse=True)


def test_memory_of_a_train_step_is_what_the_compiler_counts(tmp_path, capsys):
    config = {"model": str(pair().parent / "student"), "data": {"train": "nowhere", "length": 32}}
    config |= {"batch": {"rows": 4}, "mesh": {"fsdp": 2}, "output": str(tmp_path / "run")}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config))
    file = f"memory://plans/{tmp_path.name}/plan.json"
    assert plan.main([str(tmp_path / "sft.yaml"), "--topology", "cpu", "--tokens", "9"]) == 2
    assert "--tokens: a training has no rows that grow" in capsys.readouterr().err
    assert plan.main([str(tmp_path / "sft.yaml"), "--topology", "cpu", "--json", file]) == 0
    found = json.loads(read_file(as_path(file)))
    assert found["resident"]["moments"] > 2 * found["resident"]["weights, float32"]  # and the count of steps
    assert sum(found["resident"].values()) == found["programs"][0]["arguments"]


def test_a_configuration_of_neither_kind_is_refused(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("model: a\n")
    assert plan.main([str(tmp_path / "x.yaml"), "--topology", "cpu"]) == 2
    assert "neither of synthesize" in capsys.readouterr().err


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_shapes_have_the_published_size(name):
    assert models.parameter_count(read_shapes(name, "model")) / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_shipped_predictors_have_two_labels():
    folders = sorted(SHIPPED.glob("CoopReason/*"))
    assert [len(models.read_config(folder).labels) for folder in folders] == [2, 2]


def test_an_unknown_model_is_named():
    with pytest.raises(ConfigError, match=r"student\.model: there is no folder '\./nothing'"):
        read_shapes("./nothing", "student.model")


def test_the_compilers_time_without_what_it_does_not_know():
    assert _seconds(None) == (None, 0)
    assert _seconds(0.25) == (0.25, 0)
    seconds, unknown = _seconds(-35.98)
    assert (seconds, unknown) == (pytest.approx(0.02), 36)


def test_what_the_compiler_says_of_a_program_that_is_too_large():
    first = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (39.00G) exceeds"
    )
    assert _refusal("prefill", first).temporaries == 39 * 2**30
    second = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 34.5G of 31.25G hbm.\n\n"
    second += "Total hbm usage >= 34.5G:\n    reserved 530.00M\n    program  9.50G\n    arguments 24.5G"
    assert _refusal("prefill", second).temporaries == int(9.5 * 2**30)


def test_largest_is_the_largest_multiple_that_fits():
    assert largest(lambda n: n <= 37, 4) == 36
    assert largest(lambda n: n <= 37, 4, limit=33) == 32
    assert largest(lambda n: n < 4, 4) is None


def test_traffic_counts_main_memory_once():
    moved = traffic(PROGRAM)
    # The body: k (4096 x 2 B) read by the fusion; one row of 128 B written in place, from 128 B and an index; weights
    # copied to fast memory, where the product reads them for nothing. Its condition reads nothing.
    assert moved == {"attention": 8192 + 2 * 128 + 4, "ahead": 2048}


def test_loops_inside_a_loop_count_as_often_as_they_run():
    """As those over packed experts do; the outermost is the step's own."""
    assert traffic(NESTED) == {"mlp": 16 * 4096, "rest": 2048}
    assert repetition(NESTED) == (100 + 16 * 50) / 150
    assert repetition(PROGRAM) == 1.0  # without estimates


def test_the_loop_over_a_caches_blocks_counts_as_many_as_are_said():
    """How many it reads is known at run time alone."""
    inner = 'body=%experts, metadata={op_name="jit(f)/while/body/attention/by_length/while"}'
    text = NESTED.replace("body=%experts", inner).replace("mlp/dot", "attention/by_length/while/body/dot")
    assert traffic(text, blocks=5) == {"attention": 5 * 4096, "rest": 2048}
    assert repetition(text, blocks=5) == (100 + 5 * 50) / 150


NESTED = """
%experts (c: (s32[], bf16[2048])) -> (s32[], bf16[2048]) {
  %c = (s32[], bf16[2048]{0}) parameter(0)
  %e = s32[]{:S(6)} get-tuple-element(%c), index=0
  %w = bf16[2048]{0} get-tuple-element(%c), index=1
  %x = f32[4]{0:S(1)} copy(%w), metadata={op_name="jit(f)/while/body/mlp/dot"}, backend_config={"estimated_cycles":"50"}
  ROOT %out = (s32[], bf16[2048]{0}) tuple(%e, %w)
}

%more (c1: (s32[], bf16[2048])) -> pred[] {
  %c1 = (s32[], bf16[2048]{0}) parameter(0)
  %e1 = s32[]{:S(6)} get-tuple-element(%c1), index=0
  %all = s32[]{:S(6)} constant(16)
  ROOT %lt = pred[]{:S(6)} compare(%e1, %all), direction=LT
}

%step (d: (s32[], bf16[2048])) -> (s32[], bf16[2048]) {
  %d = (s32[], bf16[2048]{0}) parameter(0)
  %v = bf16[1024]{0} get-tuple-element(%d), index=1
  %y = f32[4]{0:S(1)} copy(%v), backend_config={"estimated_cycles":"100"}
  ROOT %inner = (s32[], bf16[2048]{0}) while(%d), condition=%more, body=%experts
}

ENTRY %main (a: (s32[], bf16[2048])) -> (s32[], bf16[2048]) {
  %a = (s32[], bf16[2048]{0}) parameter(0)
  ROOT %loop = (s32[], bf16[2048]{0}) while(%a), condition=%more, body=%step
}
"""

PROGRAM = """
%in_place (p0: bf16[64,64], p1: bf16[1,64], p2: s32[1]) -> bf16[64,64] {
  %p0 = bf16[64,64]{1,0} parameter(0)
  %p1 = bf16[1,64]{1,0} parameter(1)
  %p2 = s32[1]{0} parameter(2)
  %zero = s32[]{:S(6)} constant(0)
  %at = s32[]{:S(6)} bitcast(%p2)
  ROOT %dus = bf16[64,64]{1,0} dynamic-update-slice(%p0, %p1, %at, %zero)
}

%body (c: (bf16[64,64], bf16[32,32], bf16[1,64], s32[1])) -> (bf16[64,64], bf16[32,32], bf16[1,64], s32[1]) {
  %c = (bf16[64,64]{1,0}, bf16[32,32]{1,0}, bf16[1,64]{1,0}, s32[1]{0}) parameter(0)
  %k = bf16[64,64]{1,0} get-tuple-element(%c), index=0
  %w = bf16[32,32]{1,0} get-tuple-element(%c), index=1
  %new = bf16[1,64]{1,0} get-tuple-element(%c), index=2
  %i = s32[1]{0} get-tuple-element(%c), index=3
  %start = (bf16[32,32]{1,0:S(1)}, bf16[32,32]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %fast = bf16[32,32]{1,0:S(1)} copy-done(%start)
  %y = f32[32]{0:S(1)} fusion(%fast), kind=kLoop, calls=%sum, metadata={op_name="jit(f)/while/body/mlp/dot"}
  %s = f32[64]{0:S(1)} fusion(%k), kind=kLoop, calls=%sum2, metadata={op_name="jit(f)/while/body/attention/dot"}
  %k2 = bf16[64,64]{1,0} fusion(%k, %new, %i), kind=kLoop, calls=%in_place, metadata={op_name="x/attention/scatter"}
  ROOT %out = (bf16[64,64]{1,0}, bf16[32,32]{1,0}, bf16[1,64]{1,0}, s32[1]{0}) tuple(%k2, %w, %new, %i)
}

%sum (q0: bf16[32,32]) -> f32[32] {
  %q0 = bf16[32,32]{1,0} parameter(0)
  ROOT %r = f32[32]{0} reduce(%q0), to_apply=%add
}

%sum2 (q1: bf16[64,64]) -> f32[64] {
  %q1 = bf16[64,64]{1,0} parameter(0)
  %view = bf16[64,64]{1,0} bitcast(%q1)
  ROOT %r1 = f32[64]{0} reduce(%view), to_apply=%add
}

%condition (d: (bf16[64,64], bf16[32,32], bf16[1,64], s32[1])) -> pred[] {
  %d = (bf16[64,64]{1,0}, bf16[32,32]{1,0}, bf16[1,64]{1,0}, s32[1]{0}) parameter(0)
  ROOT %yes = pred[]{:S(1)} constant(true)
}

ENTRY %main (a: bf16[64,64], b: bf16[32,32], e: bf16[1,64], f: s32[1]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0} parameter(0)
  %b = bf16[32,32]{1,0} parameter(1)
  %e = bf16[1,64]{1,0} parameter(2)
  %f = s32[1]{0} parameter(3)
  %t = (bf16[64,64]{1,0}, bf16[32,32]{1,0}, bf16[1,64]{1,0}, s32[1]{0}) tuple(%a, %b, %e, %f)
  %loop = (bf16[64,64]{1,0}, bf16[32,32]{1,0}, bf16[1,64]{1,0}, s32[1]{0}) while(%t), condition=%condition, body=%body
  ROOT %k3 = bf16[64,64]{1,0} get-tuple-element(%loop), index=0
}
"""
