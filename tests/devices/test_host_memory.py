"""Memory that a process frees is kept for its next step, unless the user has settings of his own."""

import subprocess
import sys

from tessy_jax.devices.host_memory import keep_freed_memory

FAULTS = """
import ctypes, resource
from tessy_jax.devices.host_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = libc.malloc(64 << 20)
    ctypes.memset(array, 1, 64 << 20)
    libc.free(array)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = [faults() for _ in range(4)]
told = keep_freed_memory()
print(told, first[-1], [faults() for _ in range(4)][-1])
"""


def _faults(**environment: str) -> tuple[bool, int, int]:
    """Whether the library was told; the page faults of filling 64 MiB again, before and after."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    told, before, after = done.stdout.split()
    return told == "True", int(before), int(after)


def test_pages_of_freed_arrays_are_not_made_again() -> None:
    told, before, after = _faults()
    assert told
    assert before > 1000  # or this C library kept them by itself, and the module is of no use
    assert after < 100


def test_settings_of_the_user_are_followed() -> None:
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        assert not keep_freed_memory({name: ""})
    told, _, after = _faults(MALLOC_ARENA_MAX="2")
    assert not told
    assert after > 1000
