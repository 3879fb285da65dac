"""Opens the model, or the pair, and serves it until Ctrl-C or SIGTERM."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec

import jax.numpy as jnp
from rich.console import Console

from tessy_jax.config.sections import Budgets
from tessy_jax.config.serve import ServeConfig, ServePairConfig, ServerConfig
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import say
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.request import GenerationRequest
from tessy_jax.engine.sizes import open_room, pool_of
from tessy_jax.engine.solo import DirectChat, request_job, solo_engine
from tessy_jax.errors import DONE, ConfigError, UserError
from tessy_jax.models.hub import model_folder
from tessy_jax.serving.bodies import STOP_IDS
from tessy_jax.serving.model import Servable, Served
from tessy_jax.serving.pair import ServedPair
from tessy_jax.storage.copies import read_file
from tessy_jax.storage.paths import as_path
from tessy_jax.text.chat import Chat
from tessy_jax.text.thinking import thinking_of
from tessy_jax.text.tokenizer import ContentTokenizer

_EXTRA = ("starlette", "uvicorn", "prometheus_client")
"""Packages of the extra `serve`."""


class ServeError(UserError, RuntimeError):
    """The server cannot be started, or has failed."""


def serve(config: ServeConfig | ServePairConfig, console: Console) -> int:
    """Serves until it is stopped.

    Raises:
        ServeError: a library is missing, or the address is taken. What `ModelSource.open` and `load` raise.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ServeError(f"serve needs {', '.join(missing)}, not installed here: pip install 'tessy_jax[serve]'")
    key = read_key(config)
    with bind(config.host, config.port) as address:
        served, engine = _open(config, console)
        if key is None and not _is_loopback(config.host):
            say(console, "note: whoever reaches this address may use the model; key_env or key_file asks for a key")
        host = f"[{config.host}]" if ":" in config.host else config.host
        say(
            console,
            f"serving {served.name} at http://{host}:{address.getsockname()[1]}/v1: {config.engine.batch} slots of "
            f"{served.room} tokens; Ctrl-C finishes what runs",
        )
        from tessy_jax.serving.http import run

        with Interrupt(console, "the texts that are being written") as interrupt:
            run(served, engine, key, address, lambda: interrupt.asked)
    return DONE


def _open(config: ServeConfig | ServePairConfig, console: Console) -> tuple[Servable, Engine]:
    """Loads what is served, and compiles."""
    if isinstance(config, ServeConfig):
        say(console, f"loading {config.model}")
        served, engine = open_served(config)
        say(console, "compiling")
        warm_up(engine, served)
        return served, engine
    say(console, f"loading {config.student.model} and {config.teacher.model}")
    if config.unused:
        say(console, f"note: {', '.join(config.unused)} in the configuration: only `synthesize` reads that")
    pair = ServedPair.open(config)
    say(console, "compiling")
    pair.warm_up()
    return pair, pair.engine


def read_key(config: ServerConfig) -> str | None:
    """The key that clients must send. Raises ConfigError where it is not there."""
    if config.key_env is not None and config.key_file is not None:
        raise ConfigError("key_env and key_file are both given: leave one out")
    if config.key_env is not None:
        key = os.environ.get(config.key_env, "").strip()
        if not key:
            raise ConfigError(f"key_env: the environment variable {config.key_env} is not set")
        return key
    if config.key_file is None:
        return None
    try:
        key = read_file(as_path(config.key_file).expanduser()).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key_file: {config.key_file} cannot be read ({error})") from None
    if not key:
        raise ConfigError(f"key_file: {config.key_file} is empty")
    return key


@contextlib.contextmanager
def bind(host: str, port: int) -> Iterator[socket.socket]:
    """Takes the address, before anything else takes time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServeError(f"host {host}, port {port}: {error.strerror or error}; give another with port=...") from None
    with address:
        yield address


def open_served(config: ServeConfig) -> tuple[Served, Engine]:
    """Loads the model, and builds the engine."""
    thinks = _thinks(config)
    source = ModelSource.open(config.role(thinks), "model", Chat if thinks else DirectChat)
    room = open_room(config.engine, config.k)[0].tokens + 1
    compilation_cache.use(config.engine)
    mesh = make_mesh(config.mesh, config.engine.batch)
    pool_of(config.engine, mesh)
    model = source.load(mesh, jnp.dtype(config.engine.dtype))
    budgets = Budgets(max_think_tokens=config.max_think_tokens or config.engine.context, max_answer_tokens=1, loop=None)
    engine = solo_engine(model, budgets, config.k, config.engine, 0, mesh, stop_ids=STOP_IDS)
    return Served(config.name or source.folder.name, model, thinks, room, config), engine


def _thinks(config: ServeConfig) -> bool:
    if config.thinks is not None:
        return config.thinks
    folder = model_folder(config.model, "model")
    marker = thinking_of(folder, **config.thinking.model_dump(exclude_none=True)).marker
    return ContentTokenizer.load(folder, structural=(marker,)).id_of(marker) is not None


def warm_up(engine: Engine, served: Served) -> None:
    """Compiles what requests will need: prompts of every length, one alone and many together."""
    for size in engine.config.prompt_buckets:
        prompt = (0,) * max(1, min(size, served.room - 2))
        for many in (1, engine.config.batch):
            request = GenerationRequest(prompt, seed=0, max_tokens=2)
            for _ in engine.run(request_job(request, "warm up", sample, served.thinks) for sample in range(many)):
                pass


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
