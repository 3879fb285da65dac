"""What deploy/ starts: the pods of its manifests, and their commands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.kit import ROOT

DEPLOY = ROOT / "deploy"


class Workers(NamedTuple):
    """The pods that hold one model between them, and how many such groups there are.

    Attributes:
        job: the Job that starts them. groups: of an Indexed Job of single pods each pod is one.
    """

    file: Path
    job: dict[str, Any]
    groups: int
    pods: int

    @property
    def pod(self) -> dict[str, Any]:
        return self.job["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return container

    @property
    def chips(self) -> int:
        """Of one group."""
        return self.pods * self.container["resources"]["limits"]["google.com/tpu"]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "gke" / name).read_text("utf-8"))


def workers() -> Iterator[Workers]:
    """Of all manifests."""
    for file in sorted((DEPLOY / "gke").glob("*.yaml")):
        found = manifest(file.name)
        if found["kind"] == "Job":
            yield Workers(file, found["spec"], found["spec"]["completions"], 1)
        elif found["kind"] == "JobSet":
            (jobs,) = found["spec"]["replicatedJobs"]
            yield Workers(file, jobs["template"]["spec"], jobs["replicas"], jobs["template"]["spec"]["completions"])
