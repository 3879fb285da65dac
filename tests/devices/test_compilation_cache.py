"""Compiled programs are kept where they may be, and nothing fails where they cannot."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest
from jax._src.lru_cache import LRUCache

from tessy_jax.config.sections import EngineConfig
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.cache_files import keep_whole_files
from tessy_jax.devices.compilation_cache import user_folder
from tessy_jax.devices.host_callbacks import keep_programs_with_callbacks
from tests.kit import ROOT


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # of the tests
    folder = jax.config.jax_compilation_cache_dir
    with warnings.catch_warnings():
        yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.compilation_cache.reset_cache()


def folder_in_use() -> str | None:
    return jax.config.jax_compilation_cache_dir


def test_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder().parent == tmp_path / "tessy_jax" / "jax"
    compilation_cache.use(EngineConfig())
    assert folder_in_use() == str(user_folder())
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder().parent == Path.home() / ".cache" / "tessy_jax" / "jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/mine")  # JAX has read it
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/mine")
    compilation_cache.use(EngineConfig())
    assert folder_in_use() == "gs://bucket/mine"


def test_programs_are_kept_by_default_and_not_where_the_key_is_null(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        for config, kept in ((EngineConfig(compilation_cache=None), 0), (EngineConfig(), 1)):
            compilation_cache.use(config)
            jax.jit(lambda x: x * 41.5)(1.0).block_until_ready()
            assert bool(list(tmp_path.rglob("jit*-cache"))) == kept
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
    assert user_folder().stat().st_mode & 0o077 == 0  # who can write there has programs run


CALLS = """
import sys
import jax, numpy as np
from jax import lax, monitoring
from tessy_jax.config.sections import EngineConfig
from tessy_jax.devices import compilation_cache

compilation_cache.use(EngineConfig(compilation_cache=sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
misses = []
monitoring.register_event_listener(lambda name, **_: misses.append(name.endswith("/cache_misses")))
shape = jax.ShapeDtypeStruct((), np.int32)

def call(function, x):
    return jax.pure_callback(lambda x: np.asarray(function(x), np.int32), shape, x)

@jax.jit
def program(x):
    x = call(lambda x: x + len(sys.argv[2]), x)
    return lax.while_loop(lambda x: x < 100, lambda x: call(lambda x: x * 2 + len(sys.argv[3]), x), x)

print(program(np.int32(3)), any(misses))
"""


def test_programs_that_call_the_host_are_kept(tmp_path):
    """They call the functions of the process that has loaded them, each in its place."""

    def run(*words: str) -> list[str]:
        process = subprocess.run(
            [sys.executable, "-c", CALLS, tmp_path, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return process.stdout.split()

    assert run("abc", "") == ["192", "True"]
    assert run("abcde", "") == ["128", "False"]
    assert run("", "xy") == ["158", "False"]  # 3 8 18 38 78 158


def test_another_jax_is_left_as_it_is(monkeypatch):
    from jax._src import compiler

    def of_another_version(backend, module, callbacks):
        raise NotImplementedError

    monkeypatch.setattr(compiler, "compile_or_get_cached", of_another_version)
    keep_programs_with_callbacks()
    assert compiler.compile_or_get_cached is of_another_version


def test_a_program_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """Even where the process is killed or the disk is full while JAX writes."""
    keep_whole_files()
    cache = LRUCache(str(tmp_path), max_size=-1)
    write = type(cache.path).write_bytes

    def cut_short(file: Path, program: bytes) -> None:
        write(file, program[:3])
        assert cache.get("key") is None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patches:
        patches.setattr(type(cache.path), "write_bytes", cut_short)
        with pytest.raises(OSError, match="No space left"):
            cache.put("key", b"program")
    assert list(tmp_path.iterdir()) == []
    cache.put("key", b"program")
    cache.put("key", b"of another process")
    assert cache.get("key") == b"program"
    assert [file.name for file in tmp_path.iterdir()] == ["key-cache"]


def test_several_processes_use_what_the_configuration_names(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.use(EngineConfig())
    assert folder_in_use() is None
    compilation_cache.use(EngineConfig(compilation_cache=tmp_path / "named"))
    assert folder_in_use() == str(tmp_path / "named")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    compilation_cache.use(EngineConfig(compilation_cache=tmp_path / "file"))
    assert folder_in_use() is None
    assert caplog.messages == [
        f"{tmp_path / 'file'}: compiled programs are not kept: File exists (compilation_cache names another folder)"
    ]
    caplog.clear()

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compilation_cache.tempfile, "TemporaryFile", full)
    compilation_cache.use(EngineConfig(compilation_cache=tmp_path / "full"))
    assert folder_in_use() is None
    assert "full: compiled programs are not kept: No space left on device" in caplog.text


def test_a_disk_that_fills_up_is_said_once(tmp_path, caplog, recwarn):
    compilation_cache.use(EngineConfig(compilation_cache=tmp_path))
    for name in ("jit_a", "jit_b"):
        warnings.warn(f"Error writing persistent compilation cache entry for '{name}': OSError: full", stacklevel=1)
    warnings.warn("of another kind", stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["of another kind"]
    assert caplog.messages == [
        f"{tmp_path}: a compiled program was not read or kept: OSError: full; it is compiled anew"
    ]
