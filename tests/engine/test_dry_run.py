"""What `--dry-run` says of memory is what an engine takes."""

import jax
import pytest

from tessy_jax.config.synthesize import load_config
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.dry_run import parts
from tessy_jax.engine.pair import Pair
from tests.kit.run_synthesize import pair

PARTS = ("engine.batch=8", "mesh.data=2", "mesh.fsdp=2", "engine.cache_tokens=1537")  # four parts of 25 pages each


@pytest.mark.parametrize(
    "changes",
    [[], ["engine.page=16", "engine.cache_tokens=768"], ["engine.page=16", *PARTS]],
    ids=["rings", "pages", "mesh"],
)
def test_caches_take_what_was_said(changes: list[str]) -> None:
    config = load_config(pair(), changes)
    opened = Pair.open(config)
    engine = opened.load(make_mesh(config.mesh, config.engine.batch))
    student, teacher = engine.carry.caches
    taken = {"student": student.model, "teacher": teacher.model, "teacher's predictor": teacher.predictor}
    said = {part.name: part.memory(config.engine, config.mesh).cache for part in parts(opened)}
    assert said == {name: sum(a.nbytes for a in jax.tree.leaves(cache)) for name, cache in taken.items()}
