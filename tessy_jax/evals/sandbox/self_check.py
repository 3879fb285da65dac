"""Whether the sandbox holds on this machine: tried before anything of a stranger's runs."""

import json
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tessy_jax.evals.sandbox.box import INSTALL
from tessy_jax.evals.sandbox.job import BoxLimits, Job, Outcome, SandboxError

PROBE = Path(__file__).with_name("probe.py").read_bytes()
REMEDIES = {
    "Unknown option": f"it is too old (0.8 or newer is needed): {INSTALL}",
    "Can't mount proc": "this container masks /proc: start it with --security-opt systempaths=unconfined",
    "RTM_NEWADDR": "AppArmor forbids user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
    "or give bwrap an AppArmor profile with `userns,`",
    "uid map": "AppArmor forbids user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
    "or give bwrap an AppArmor profile with `userns,`",
    "namespace": "user namespaces are forbidden: sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone; "
    "in a container, --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
    "Permission denied": "programs run as a user without rights, who must be able to read it: no private home",
}
Run = Callable[[Job], Outcome]
LIMITS = BoxLimits(cpu_seconds=5, wall_seconds=20, address_mib=512, stack_mib=8, output_bytes=1 << 20, disk_mib=16)


def check(run: Run, python: Path) -> None:
    """Raises SandboxError with the reason and the remedy where the sandbox does not hold."""
    for fault in faults(run, python):
        raise SandboxError(f"programs cannot be run safely here: {fault}")


def faults(run: Run, python: Path) -> Iterator[str]:
    """What does not hold, the plainest first."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile() as outside:
        outside.write(secrets.token_bytes(16))
        outside.flush()
        Path(outside.name).chmod(0o644)
        job = Job(
            (str(python), "-s", "-B", "/box/probe.py", outside.name, sys.prefix, str(server.getsockname()[1])),
            LIMITS,
            {"/box/probe.py": PROBE},
        )
        outcome = run(job)
    if outcome.failure:
        remedy = next((text for sign, text in REMEDIES.items() if sign in outcome.failure), INSTALL)
        yield f"{outcome.failure}; {remedy}"
        return
    try:
        found = json.loads(outcome.stdout)
    except ValueError:
        said = outcome.stderr.decode(errors="replace").strip()
        yield f"a small program did not run: {said or f'exit code {outcome.exit_code}'}"
        return
    yield from found

    sleep = Job(("/bin/sh", "-c", "while :; do sleep 9; done"), BoxLimits(1, 0.3, 512, 8, 1 << 20))
    if run(sleep).stopped != "wall":
        yield "a program that sleeps was not stopped"
    shout = Job(("/bin/sh", "-c", "while :; do echo tessy; done"), BoxLimits(9, 60, 512, 8, 1 << 16))
    if run(shout).stopped != "output":
        yield "a program that writes without end was not stopped"
