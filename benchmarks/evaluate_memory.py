"""How much memory an evaluation takes, by its number of responses: python benchmarks/evaluate_memory.py

Responses of 20 kB in a file, each with a letter to be judged, through all three stages; one process for each number.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tessy_jax import evaluate

TEXT = "word " * 4_000
RUNS = 10


def evaluate_responses(root: Path, responses: int) -> None:
    """Runs an evaluation, and prints seconds and the most memory that it held, in MiB."""
    problems = [{"id": f"p{n}", "prompt": "?", "choices": ["a", "b"], "answer": "A"} for n in range(responses // RUNS)]
    rows = (
        {
            "problem_id": each["id"],
            "sample_index": run,
            "response": f"{TEXT}\nANSWER: {'AB'[run % 2]}",
            "n_tokens": 4_000,
        }
        for run in range(RUNS)
        for each in problems
    )
    for name, lines in (("problems.jsonl", problems), ("responses.jsonl", rows)):
        with (root / name).open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    values = {
        "model": {"kind": "responses", "path": str(root / "responses.jsonl"), "model": "a file", "thoughts": None},
        "benchmarks": [{"name": "jsonl", "path": str(root / "problems.jsonl"), "runs": RUNS}],
        "output": str(root / "run"),
    }
    config = root / "evaluate.yaml"
    config.write_text(yaml.safe_dump(values))
    started = time.monotonic()
    code = evaluate.main([str(config)])
    assert code == 0, code
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{responses} {time.monotonic() - started:.0f} {peak:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("responses", type=int, nargs="*", default=[500, 2_000, 10_000])
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        evaluate_responses(options.folder, options.responses[0])
        return
    print("| responses | MB of text | seconds | peak, MiB |\n|---:|---:|---:|---:|")
    for responses in options.responses:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, str(responses), "--in", folder]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        _, seconds, peak = said.splitlines()[-1].split()
        print(f"| {responses:,} | {responses * len(TEXT) / 1e6:.0f} | {seconds} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
