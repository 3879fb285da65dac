"""Where programs of a model are run: boxes of bubblewrap, one per run, without network, files or rights."""

from tessy_jax.evals.sandbox.job import BoxLimits, Job, Outcome, SandboxError
from tessy_jax.evals.sandbox.sandbox import Sandbox

__all__ = ["BoxLimits", "Job", "Outcome", "Sandbox", "SandboxError"]
