"""Variables of the environment that JAX reads: none changes what a command computes, and absent devices are named."""

import os
import subprocess
import sys
from functools import cache

import jax
import pytest

from tessy_jax.devices.jax_settings import SETTINGS, WITHOUT_A_TPU, settle
from tests.kit import ROOT

PRINT_SETTINGS = """
import jax
from tessy_jax.devices.jax_settings import SETTINGS
print({setting.variable: str(jax.config.values[setting.variable.lower()]) for setting in SETTINGS})
print(jax.numpy.zeros(1, float).dtype, jax.random.bits(jax.random.key(0), (2,)))
"""
OTHERWISE = {True: "0", False: "1", None: "highest"}
OTHERS = {
    "JAX_EXPLICIT_X64_DTYPES": "error",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_ARRAY_GARBAGE_COLLECTION_GUARD": "fatal",
    "JAX_DEFAULT_DEVICE": "nowhere",
} | {setting.variable: "disallow" for setting in SETTINGS if "TRANSFER_GUARD" in setting.variable}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process without the variables of JAX that the tests themselves run with."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=ours | environment, capture_output=True, text=True, cwd=ROOT
    )


@cache  # some tests compare with the same
def run_command(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, in a process of its own, that executes `body`."""
    code = "import sys\nfrom tessy_jax.console.app import Command\n"
    code += f"run = lambda *_: exec({body!r}, {{}}) or 0\n"
    code += "sys.exit(Command(name='x', description='', options=(), run=run)([]))"
    return run_python(code, **environment)


def test_the_table_names_settings_of_jax_and_their_defaults():
    """So that nothing changes where the environment is silent."""
    for setting in SETTINGS:
        assert setting.variable.lower() in jax.config.values, setting.variable
    plain, without_us = run_command(PRINT_SETTINGS), run_python(PRINT_SETTINGS)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout == without_us.stdout


def test_the_table_stands_in_the_documentation():
    text = (ROOT / "docs" / "environment.md").read_text("utf-8")
    for variable, value, why in SETTINGS:
        ours = "unset" if value is None else value if isinstance(value, str) else int(value)
        assert f"\n| `{variable}` | {ours} | {why} |\n" in text


def test_no_setting_of_the_environment_changes_what_is_computed():
    others = {s.variable: OTHERS.get(s.variable) or OTHERWISE[s.value] for s in SETTINGS}
    assert set(others) == {setting.variable for setting in SETTINGS}
    process = run_command(PRINT_SETTINGS, **others)
    assert process.returncode == 0, process.stderr
    assert process.stdout == run_command(PRINT_SETTINGS).stdout
    for variable, value in others.items():  # each is named, once, on a line of its own
        [note] = [line for line in process.stderr.splitlines() if f"{variable}={value} " in line]
        assert note.startswith("note: ")
        assert "docs/environment.md" in note
    assert len(process.stderr.splitlines()) == len(others)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, []),
        ({"JAX_ENABLE_X64": "False", "JAX_THREEFRY_PARTITIONABLE": "on", "JAX_DEFAULT_PRNG_IMPL": "threefry2x32"}, []),
        ({"JAX_LOG_COMPILES": "1", "XLA_FLAGS": "--x", "JAX_PLATFORMS": "cpu"}, []),  # not ours
        ({"JAX_ENABLE_X64": "yes"}, ["JAX_ENABLE_X64=yes"]),
        ({"JAX_ENABLE_X64": ""}, ["JAX_ENABLE_X64="]),  # JAX itself would end in a traceback
        ({"JAX_DEFAULT_MATMUL_PRECISION": "highest"}, ["JAX_DEFAULT_MATMUL_PRECISION=highest"]),
    ],
)
def test_what_is_said(environment, named):
    kept = {name: environment[name] for name in environment.keys() - {setting.variable for setting in SETTINGS}}
    notes = settle(environment)
    assert [note.split()[1] for note in notes] == named
    assert environment | kept == environment
    assert environment["JAX_ENABLE_X64"] == "0"
    assert environment["JAX_DEFAULT_PRNG_IMPL"] == "threefry2x32"
    assert "JAX_DEFAULT_MATMUL_PRECISION" not in environment
    assert not settle(environment)  # what is set is right


def test_a_program_that_configured_jax_itself():
    """`main([...])` in a program that has imported JAX and computes with 64 bits."""
    before = "import jax; jax.config.update('jax_enable_x64', True); jax.config.update('jax_debug_infs', True)\n"
    code = f"{before}from tessy_jax.devices.jax_settings import settle; settle()\n{PRINT_SETTINGS}"
    process = run_python(code)
    assert process.stdout == run_command(PRINT_SETTINGS).stdout


@pytest.mark.parametrize(
    ("platforms", "reason"),
    [
        ("cpu,nonsense", "'nonsense' is not in the list of known backends"),
        ("cuda", "this machine has no such device"),
    ],
)
def test_platforms_that_are_not_there(platforms, reason):
    process = run_command("import jax; jax.devices()", JAX_PLATFORMS=platforms)
    if platforms == "cuda" and process.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert process.returncode == 1
    [line] = process.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platforms}: ")
    assert reason in line
    assert "cpu" in line.partition("; there is ")[2]


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("JAX_LOG_COMPILES", "maybe", "invalid truth value 'maybe' for environment 'JAX_LOG_COMPILES'"),
        ("JAX_LOGGING_LEVEL", "loud", 'Invalid value "loud" for JAX flag jax_logging_level'),
        ("JAX_NUM_CPU_DEVICES", "two", 'Invalid value "two" for JAX flag jax_num_cpu_devices'),
    ],
)
def test_values_that_jax_refuses(variable, value, reason):
    process = run_command("import jax", **{variable: value})
    assert process.returncode == 1
    advice = "mend or unset this variable of the environment"
    assert process.stderr == f"error: JAX does not start: {reason}; {advice}\n"


def test_libtpu_is_quiet_where_there_is_no_tpu(monkeypatch):
    devices: list[str] = []
    monkeypatch.setattr("tessy_jax.devices.jax_settings.glob", lambda pattern: [d for d in devices if d in pattern])
    environment = {"TPU_ACCELERATOR_TYPE": "v5e-4"}
    settle(environment)
    assert {name: environment[name] for name in WITHOUT_A_TPU} == WITHOUT_A_TPU | {"TPU_ACCELERATOR_TYPE": "v5e-4"}
    for there, more in (["/dev/accel"], {}), (["/dev/vfio/"], {}), ([], {"JAX_PLATFORMS": "tpu"}):
        devices[:] = there
        environment = dict(more)
        settle(environment)
        assert not WITHOUT_A_TPU.keys() & environment.keys()
