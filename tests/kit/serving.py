"""A tiny model behind the API, on a port of this machine."""

import dataclasses
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.error import HTTPError

import openai
import torch

from tessy_jax.config.serve import ServeConfig, ServePairConfig, load_serve
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.pair import Pair
from tessy_jax.serving.http import run
from tessy_jax.serving.model import Served
from tessy_jax.serving.pair import ServedPair
from tessy_jax.serving.run import bind, open_served
from tests.kit import run_synthesize, vocab
from tests.kit.tiny import llama

NAME = "tiny"
CONTEXT, K, MARGIN = 256, 4, 64
ROOM = CONTEXT - K - MARGIN
PROMPT = {"model": NAME, "prompt": "a"}
LONG = {"model": NAME, "prompt": "The sum of", "max_tokens": 150, "temperature": 1.0, "seed": 2}
"""A text that is not done at once."""


def write_model(folder: Path) -> Any:
    """A Llama that thinks, and ends its thinking and its answers often; returns the torch model."""
    vocab.small_chatml(folder)
    ids = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    named = {token["content"]: token["id"] for token in ids}
    rows = (max(named.values()) + 5) // 2 * 2
    model = llama(folder, seed=1, vocab_size=rows, eos_token_id=named["<|im_end|>"])
    with torch.no_grad():
        for name in ("</think>", "<|im_end|>"):
            model.lm_head.weight[named[name]] *= 1.6
    model.save_pretrained(folder)
    return model


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The model as torch has it, and as our engine does: compiled once for all tests of a process."""

    torch_model: Any
    served: Served
    engine: Engine


@cache
def tiny() -> Tiny:
    """Four slots that share the pages of about two full rows, so that rows wait, and give their pages back."""
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "served"
    torch_model = write_model(folder)
    config = ServeConfig.model_validate(
        {
            "model": str(folder),
            "name": NAME,
            "k": K,
            "engine": {
                "batch": 4,
                "context": CONTEXT,
                "cache_tokens": 2 * CONTEXT,
                "page": 16,
                "prompt_buckets": [32],
                "chunk": 8,
                "dtype": "float32",
                "compilation_cache": os.environ["JAX_COMPILATION_CACHE_DIR"],
            },
            "limits": {"queue": 8, "choices": 8, "body": 20_000},
        }
    )
    return Tiny(torch_model, *open_served(config))


@dataclasses.dataclass
class Server:
    """A server that runs in a thread.

    Attributes:
        stop: set it to have it finish what runs.
    """

    port: int
    stop: threading.Event
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120, **options)

    def asynchronous(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def post(self, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of the answer to a request that no client would make."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        values = json.loads(answer.read())
        connection.close()
        return answer.status, values, dict(answer.getheaders())

    def metric(self, name: str) -> float:
        """A number at /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def stopping(self) -> bool:
        """Whether /health says so."""
        try:
            return not urllib.request.urlopen(f"{self.url}/health")
        except HTTPError as error:
            return json.load(error)["status"] == "stopping"

    def wait(self, name: str, value: float) -> None:
        """Until a number at /metrics is this."""
        until = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < until, f"{name} is {self.metric(name)}"
            time.sleep(0.02)


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Once the engine has written some words it waits until this ends: no longer text is done before."""
    harvest, written, go_on = engine._harvest, threading.Event(), threading.Event()

    def wait() -> Any:
        if written.is_set():
            assert go_on.wait(timeout=60)
        found = harvest()
        if any(len(output.text) > 20 for output in found[2]):
            written.set()
        return found

    with mock.patch.object(engine, "_harvest", wait):
        try:
            yield
        finally:
            go_on.set()


@cache
def tiny_pair() -> ServedPair:
    """The pair of `run_synthesize` behind the same engine: its records are known. Three slots."""
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    config = load_serve(run_synthesize.pair(), ["name=both", f"engine.compilation_cache={cache}"])
    assert isinstance(config, ServePairConfig)
    with mock.patch.object(Pair, "load", return_value=run_synthesize.shared_engine()):
        served = ServedPair.open(config)
    served.warm_up()
    return served


@contextmanager
def serving(key: str | None = None, served: Served | ServedPair | None = None, queue: int = 8) -> Iterator[Server]:
    """The tiny model, or the pair, behind a server; at the end it is stopped, and the engine's slots are free."""
    served, stop = served or tiny().served, threading.Event()
    engine = served.engine if isinstance(served, ServedPair) else tiny().engine
    limits = served.config.limits.model_copy(update={"queue": queue})
    served = dataclasses.replace(served, config=served.config.model_copy(update={"limits": limits}))
    with bind("127.0.0.1", 0) as address:
        arguments = (served, engine, key, address, stop.is_set)
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        thread.start()
        yield Server(address.getsockname()[1], stop, thread)
        stop.set()
        thread.join(timeout=120)
    assert not thread.is_alive()
    assert engine.slots == [None] * len(engine.slots)
