"""Several processes, as on a pod: two on this machine, which find each other as Slurm's tasks do."""

import os
import subprocess
import sys

from tests.kit.run_sft import difference, order, student, whole
from tests.kit.slurm import task

SETTINGS = ("mesh.data=2", "mesh.fsdp=2", "checkpoint.every=7", "compute.compilation_cache=null")


def test_two_processes_train_as_one(tmp_path):
    """Each has half of a step's rows and of the weights; the batches, and so the weights, are those of one."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tessy_jax.sft", str(student()), "--pod", "--output", str(run), *SETTINGS]

    def process(index: int) -> subprocess.Popen[str]:
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
        environment = os.environ | task(index, os.getpid() % 2000 + 4000) | flags
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    first, second = [process(0), process(1)]
    shown = [p.communicate(timeout=300)[1] for p in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], shown
    assert f"the student after step 14 is in {run}/export" in shown[0]
    assert "step 14" not in shown[1]  # one speaks for all
    assert len(order(run)) == 14
    assert difference(run, whole()) < 2e-6
