"""Many streams at once against a server with OpenAI's API: python benchmarks/serving.py http://127.0.0.1:8000/v1

Each of --streams clients asks one chat after the other, with its own length and seed; a share of them goes away in the
middle. Prints the server's memory by the minute, then the times of those that stayed to the end: to the first text,
and from piece to piece. Where the server is ours it must have no slot, no page and nobody waiting in the end, and this
exits with 1 where it has.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import re
import resource
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openai

PROMPTS = (
    "Name a prime number.",
    "What is 17 times 23? Think of it as 17 times 20 and 17 times 3.",
    "Write a function that reverses a list, and say what it costs.",
    "A train leaves at nine and arrives at noon. " * 8 + "How long is it under way?",
)
LEFT_OVER = ("tessy_slots_taken", "tessy_texts_waiting", "tessy_cache_pages_taken")


@dataclass
class Times:
    """In seconds, of streams that stayed to the end.

    Attributes:
        first: to the first text of each.
        pieces: from one piece of text to the next.
        ends: how streams ended: finished, gone away, or a status other than 200.
    """

    first: list[float] = field(default_factory=list)
    pieces: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)


async def stream(client: openai.AsyncOpenAI, model: str, number: int, gone: float, times: Times) -> None:
    """One chat; with probability `gone` the client goes away after some pieces."""
    rng = random.Random(number)
    leave = rng.randrange(1, 12) if rng.random() < gone else None
    at, when = time.monotonic(), []
    try:
        reply = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": rng.choice(PROMPTS)}],
            max_tokens=rng.randrange(16, 65),
            temperature=rng.choice([0.0, 0.7]),
            seed=number,
            stream=True,
        )
    except openai.APIStatusError as error:
        times.ends[str(error.status_code)] += 1
        await asyncio.sleep(float(error.response.headers.get("Retry-After", 1)))
        return
    async with reply:
        async for chunk in reply:
            if chunk.choices and chunk.choices[0].delta.content:
                when.append(time.monotonic() - at)
                if leave is not None and len(when) >= leave:
                    times.ends["gone away"] += 1
                    return
    times.ends["finished"] += 1
    times.first += when[:1]
    times.pieces += [after - before for before, after in itertools.pairwise(when)]


async def soak(options: argparse.Namespace) -> Times:
    """Streams for so many minutes, and waits for those that run then."""
    times, numbers = Times(), itertools.count()
    async with openai.AsyncOpenAI(base_url=options.url, api_key="none", timeout=600, max_retries=0) as client:
        model = options.model or (await client.models.list()).data[0].id
        end = time.monotonic() + 60 * options.minutes

        async def ask() -> None:
            while time.monotonic() < end:
                await stream(client, model, next(numbers), options.gone, times)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_watch(end, options.pid, times))
            for _ in range(options.streams):
                tasks.create_task(ask())
    return times


async def _watch(end: float, pid: int | None, times: Times) -> None:
    """A line each minute."""
    print("| minute | finished | gone away | other | server's memory, MiB |\n|---|---|---|---|---|")
    for minute in itertools.count():
        ends = Counter(times.ends)
        finished, gone = ends.pop("finished", 0), ends.pop("gone away", 0)
        print(f"| {minute} | {finished} | {gone} | {dict(ends) or 0} | {_memory(pid)} |", flush=True)
        if time.monotonic() >= end:
            return
        await asyncio.sleep(min(60, max(0.0, end - time.monotonic())))


def _memory(pid: int | None) -> str:
    if pid is None:
        return "-"
    with contextlib.suppress(OSError):
        return f"{int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * resource.getpagesize() / 2**20:.0f}"
    return "it has ended"


def left_over(url: str) -> dict[str, float]:
    """What our server holds although nobody waits; empty where it is another server."""
    try:
        with urllib.request.urlopen(url.removesuffix("/").removesuffix("/v1") + "/metrics") as reply:
            page = reply.read().decode()
    except urllib.error.HTTPError:
        return {}
    found = {name: re.search(rf"^{name} (\S+)", page, re.MULTILINE) for name in LEFT_OVER}
    return {name: float(each.group(1)) for name, each in found.items() if each}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="with /v1")
    parser.add_argument("--model", help="its name; else the first of /v1/models")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--gone", type=float, default=0.2, help="share of clients that go away (0.2)")
    parser.add_argument("--pid", type=int, help="of the server: its memory is shown")
    options = parser.parse_args()

    try:
        times = asyncio.run(soak(options))
    except openai.APIConnectionError:
        parser.error(f"no server answers at {options.url}: start one, or correct the address")
    print(f"\n{dict(times.ends)}\n\n| seconds | p50 | p95 |\n|---|---|---|")
    for name, values in (("to the first text", times.first), ("from piece to piece", times.pieces)):
        print(f"| {name} | {np.percentile(values, 50):.3f} | {np.percentile(values, 95):.3f} |")
    time.sleep(10)
    left = left_over(options.url)
    print(f"left over: {left or 'not told'}")
    return int(any(left.values()))


if __name__ == "__main__":
    sys.exit(main())
