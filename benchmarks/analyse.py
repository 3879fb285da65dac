"""How long `analyse` takes, what it holds in memory, and how soon its page shows a trace.

    python benchmarks/analyse.py                  1,000 traces of the demo's sizes, read by SmolLM2 (after `make demo`)
    python benchmarks/analyse.py --page 10000     a page of so many traces in Chromium; nothing is read by a model

The traces are those of the demo's run with the words of each span in another order, and with problems of their own.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PHASES = {"reading": "reading files", "counting": "reading by the student", "the report is": "counting and writing"}
"""What the command says when a phase ends (the first: begins), and the phase that ends there."""


def read_run(run: Path) -> list[dict[str, Any]]:
    files = sorted((run / "data").glob("*.jsonl"))
    assert files, f"there is no run at {run}: make demo"
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def traces(records: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """So many records: those of the run in turn, the words of each span shuffled."""
    for number in range(count):
        record, rng = json.loads(json.dumps(records[number % len(records)])), random.Random(number)
        asked, said = record["messages"][-2:]
        content = said["content"]
        for span in record["spans"]:
            words = re.findall(r"\S+\s*|\s+", content[span["start"] : span["end"]])
            rng.shuffle(words)
            content = content[: span["start"]] + "".join(words) + content[span["end"] :]
        said["content"], asked["content"] = content, f"{asked['content']} ({number})"
        yield record | {"id": f"t{number}"}


def write_run(folder: Path, run: Path, count: int) -> None:
    """A run directory of so many records, with the configuration of `run`."""
    (folder / "data").mkdir(parents=True)
    for name in ("config.yaml", "manifest.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    with (folder / "data/part-00000-of-00001.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in traces(read_run(run), count))


def read(root: Path, options: argparse.Namespace) -> None:
    """Times the command, phase by phase, in a process of its own."""
    write_run(root / "run", options.run, options.traces)
    command = [sys.executable, "-m", "tessy_jax.analyse", str(root / "run"), "--student", str(options.student)]
    command += ["--output", str(root / "report"), "--batch-tokens", str(options.batch_tokens)]
    started = last = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr
    for line in process.stderr:
        phase = next((name for said, name in PHASES.items() if line.lstrip().startswith(said)), None)
        if phase:
            print(f"{phase if phase != 'reading files' else 'start':<24}{time.monotonic() - last:8.1f} s", flush=True)
            last = time.monotonic()
    assert process.wait() in (0, 3), "it failed"
    found = json.loads((root / "report/report.json").read_text("utf-8"))["sets"][0]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    size = (root / "report/report.html").stat().st_size / 1e6
    print(f"{found['traces']:,} traces, {sum(found['tokens'].values()):,} tokens to learn: ", end="")
    print(f"{time.monotonic() - started:.0f} s, {peak:,.0f} MiB at most; the page has {size:.1f} MB")


def show(root: Path, options: argparse.Namespace) -> None:
    """Writes a page of so many traces, and waits for the first in a browser."""
    sys.path.insert(0, str(ROOT))
    from tessy_jax.analysis.page import write_page
    from tessy_jax.analysis.report import numbers
    from tessy_jax.analysis.traces import DataSet, Reading, read_set
    from tessy_jax.analysis.vectors import vectors
    from tessy_jax.text.chat import Chat
    from tests.kit.browser import Page

    write_run(root / "run", options.run, options.page)
    chat, rng = Chat.load(options.student), np.random.default_rng(0)
    many = read_set(root / "run", "many", Reading(chat, None, 2048, None, {}))
    for trace in many.traces:
        trace.nll = rng.exponential(size=len(trace.example.tokens)).astype(np.float32)
    few = [DataSet("few", many.traces[:100])]
    path = root / "report.html"
    write_page(path, numbers(few, False, vectors(few), chat, []), [many], None)
    with Page(root / "profile") as page:
        started = time.monotonic()
        page.send("Page.navigate", url=f"{path.as_uri()}#traces")
        while not page.value("document.getElementById('text')?.textContent"):
            time.sleep(0.01)
        seconds = time.monotonic() - started
        page.send("Performance.enable")
        metrics = {each["name"]: each["value"] for each in page.send("Performance.getMetrics")["metrics"]}
    print(f"{options.page:,} traces: a page of {path.stat().st_size / 1e6:.1f} MB; the first is there after ", end="")
    print(f"{seconds:.2f} s, with {metrics['JSHeapUsedSize'] / 2**20:.0f} MiB of JavaScript's memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000)
    parser.add_argument("--page", type=int, metavar="TRACES")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--student", type=Path, default=Path(".cache/demo/smollm2-135m-instruct"))
    parser.add_argument("--batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (show if options.page else read)(Path(folder), options)


if __name__ == "__main__":
    main()
