"""deploy/: manifests fit their schemas and configurations; scripts hand on signals and exit codes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

from tessy_jax.config.synthesize import load_config
from tests.kit import ROOT
from tests.kit.deploy import DEPLOY, Workers, manifest, workers

KUBERNETES = "1.33"
"""The first version that has `backoffLimitPerIndex` for good."""

RUN = DEPLOY / "run.sh"


@pytest.mark.parametrize("name", ["shards.yaml", "shared.yaml"])
def test_manifests_fit_kubernetes_schemas(name: str) -> None:
    assert kubernetes_validate.validate(manifest(name), KUBERNETES, strict=True)


def test_the_set_of_jobs_fits_its_schema() -> None:
    """What the schema does not know would be lost on the way through its classes."""
    found = manifest("slices.yaml")
    assert known(JobsetV1alpha2JobSet.from_dict(found)) == found
    found["spec"]["replicatedJobs"][0]["replica"] = 3
    assert known(JobsetV1alpha2JobSet.from_dict(found)) != found


def known(jobs: JobsetV1alpha2JobSet | None) -> dict[str, Any]:
    assert jobs is not None
    return jobs.to_dict()


@pytest.mark.parametrize("group", list(workers()), ids=lambda group: group.file.name)
def test_chips_and_shards_are_those_of_the_configuration(group: Workers) -> None:
    """The mesh is the slice, every group of workers has its shard, and all see the disk that is claimed."""
    words = group.container["args"]
    assert words[:3] == ["python", "-m", "tessy_jax.synthesize"]
    shard, output = (words[words.index(option) + 1] for option in ("--shard", "--output"))
    config = load_config(ROOT / words[3], [word for word in words[4:] if re.match(r"[\w.]+=", word)])
    topology = group.pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    mesh = config.mesh
    assert prod(map(int, topology.split("x"))) == group.chips == mesh.data * mesh.fsdp * mesh.tensor
    assert ("--pod" in words) == (group.pods > 1)

    first, _, count = shard.partition("/")
    assert int(count) == group.groups
    if group.pods == 1:  # the scheduler counts pods
        assert first == "auto"
    else:  # and workers of a slice
        (variable,) = group.container["env"]
        assert first == f"$({variable['name']})"
        assert variable["valueFrom"]["fieldRef"]["fieldPath"].endswith("['jobset.sigs.k8s.io/job-index']")

    (disk,) = group.pod["volumes"]
    (mount,) = group.container["volumeMounts"]
    assert disk["persistentVolumeClaim"]["claimName"] == manifest("shared.yaml")["metadata"]["name"]
    assert mount["name"] == disk["name"]
    roles = (config.student, config.teacher, config.predictors.student, config.predictors.teacher)
    for path in (output, str(config.input), *(str(role.model) for role in roles)):
        assert path.startswith(f"{mount['mountPath']}/")
    assert group.job["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] == [2]


@pytest.mark.parametrize("name", ["tpu", "cuda"])
def test_images_copy_what_is_there(name: str) -> None:
    lines = (DEPLOY / f"{name}.Dockerfile").read_text("utf-8").splitlines()
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    copied = [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
    assert sorted(copied) == sorted(sent), ".dockerignore lets through what is copied, and nothing else"
    assert all((ROOT / path).exists() for path in copied)
    (extras,) = re.findall(r"pip install .*'\.\[([\w,]+)\]'", "\n".join(lines))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extras.split(",") == [name, "storage", "eval"]
    assert {name, "storage", "eval"} <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("script", [RUN, *sorted((DEPLOY / "slurm").glob("*.sbatch"))], ids=lambda path: path.name)
def test_scripts_have_no_faults(script: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([program, script], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(("code", "given"), [(0, 0), (3, 0), (2, 2), (1, 1), (130, 130)])
def test_rejects_are_no_failure_for_a_scheduler(code: int, given: int) -> None:
    assert subprocess.run([RUN, "bash", "-c", f"exit {code}"], check=False).returncode == given


STOPS = """
import signal, sys, time
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
print("ready", flush=True)
while not signals:
    time.sleep(0.1)
time.sleep(1)  # the dispatch that runs
print(len(signals), flush=True)
sys.exit(130)
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["as Kubernetes does", "to the whole group"])
def test_a_signal_is_handed_on_once_and_waited_for(send: Callable[[int, int], None]) -> None:
    command = [RUN, sys.executable, "-c", STOPS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    send(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "1\n"
    assert process.returncode == 130


def test_jobs_of_slurm_are_as_many_as_their_shards() -> None:
    text = (DEPLOY / "slurm/shards.sbatch").read_text("utf-8")
    (last,) = re.findall(r"--array=0-(\d+)", text)
    words = shlex.split(text.replace("\\\n", " "), comments=True)
    assert words[words.index("--shard") + 1] == f"auto/{int(last) + 1}"
