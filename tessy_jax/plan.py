"""What a configuration needs of a machine: `python -m tessy_jax.plan CONFIG --topology v6e:2x4 [key=value …]`.

Compiles the real programs from shapes, on this machine's CPU; reads and allocates no weights, and needs no TPU.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import jax
from rich.console import Console

from tessy_jax.config.schema import load_as, read_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.console.app import overrides, run
from tessy_jax.errors import DONE, ERROR, ConfigError
from tessy_jax.planning.pair import plan_pair
from tessy_jax.planning.report import Plan
from tessy_jax.planning.show import show
from tessy_jax.planning.topology import Topology
from tessy_jax.planning.training import plan_sft

DEMO = Path("configs/demo.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 it fits, 1 it does not or an error, 2 bad usage."""
    options = _parser().parse_intermixed_args(argv)
    jax.config.update("jax_platforms", "cpu")  # before a backend starts: compiling needs no accelerator

    def compile_all(_: Console) -> int:
        logging.getLogger("tessy_jax.planning").setLevel(logging.INFO)  # large programs take minutes each
        changes = overrides(options, DEMO, ())
        plan = _plan(options.config, changes, Topology.parse(options.topology))
        show(plan, Console(highlight=False, markup=False, soft_wrap=True))
        if options.json is not None:
            values = {"overrides": changes} | plan.to_json()
            options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return DONE if plan.fits else ERROR

    return run(compile_all, "interrupted")


def _plan(path: Path, changes: list[str], topology: Topology) -> Plan:
    """The plan of a configuration of `synthesize` or `sft`; which it is, its keys say."""
    keys = read_yaml(path)
    if "teacher" in keys:
        return plan_pair(str(path), load_as(SynthesisConfig, path, changes), topology)
    if "model" in keys and "data" in keys:
        return plan_sft(str(path), load_as(SftConfig, path, changes), topology)
    raise ConfigError(
        f"{path} is a configuration neither of synthesize (student, teacher) nor of sft (model, data); only those "
        "can be planned"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.plan",
        description="Says what a configuration needs of each chip, without weights and without the chips.",
        epilog="exit codes: 0 it fits, 1 it does not fit (or an error), 2 bad usage",
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEMO, help="a YAML file of synthesize or of sft")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. engine.batch=8")
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v5p:2x2x4, v6e:2x4, … (needs tessy_jax[tpu]), or cpu"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here too, in bytes and seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
