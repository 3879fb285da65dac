"""The options of `analyse`."""

from pathlib import Path

from tessy_jax.console.app import option
from tessy_jax.storage.paths import as_path

OPTIONS = (
    option("data", "run directories, .jsonl(.gz), .parquet, folders of conversations", nargs="+", type=as_path),
    option("--student", "the model that is to learn the data; default: the first run's", metavar="MODEL"),
    option("--teacher", "the other model: its token boundaries are shown too", metavar="MODEL"),
    option("--reference", "text of the student's own, to compare with: a run of sample", type=as_path, metavar="RUN"),
    option("--draw", "texts that the student writes for the data's prompts, to compare with", type=int, metavar="N"),
    option("--benchmark", "problems that should not be in the data", type=as_path, action="append", default=[]),
    option("--judged", "output of evaluate, whose verdicts are of these traces", type=as_path, metavar="FOLDER"),
    option("--config", "file whose prompt and thinking are the student's; default: the run's", type=as_path),
    option("--output", "folder of the report (default: %(default)s)", type=as_path, default=Path("runs/analysis")),
    option("--limit", "rows of each data set, at most", type=int),
    option("--length", "tokens of a trace, at most (default: %(default)s)", type=int, default=40960),
    option("--batch-tokens", "tokens read at a time (default: %(default)s)", type=int, default=4096),
    option("--dtype", "default: %(default)s", choices=("float32", "bfloat16"), default="float32"),
)
"""In the order of the help."""
