"""The plan of a configuration, shown and written.

The real programs are compiled from shapes on this machine's CPU: no weights are read or allocated, no TPU is needed.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from tessy_jax.config.sft import SftConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.errors import DONE, ERROR, ConfigError
from tessy_jax.planning.pair import plan_pair
from tessy_jax.planning.pair_rate import TYPICAL, spans_of
from tessy_jax.planning.show import show
from tessy_jax.planning.topology import Topology
from tessy_jax.planning.training import plan_sft
from tessy_jax.storage.outputs import check_writable, write_file


def plan(config: SynthesisConfig | SftConfig, file: Path, overrides: Sequence[str], options: argparse.Namespace) -> int:
    """Compiles the programs of a configuration, prints what they need of each chip, and returns the exit code.

    Args:
        config: what is planned.
        file, overrides: where it comes from.
        options: of the command: topology, tokens (of a row; None: it is full), spans (a run to read their lengths from,
            or None), json (a file for all numbers, or None).

    Returns:
        The exit code: DONE where it fits, ERROR where it does not.

    Raises:
        UserError: the topology is not known or cannot be compiled for, or does not suit the configuration.
    """
    jax.config.update("jax_platforms", "cpu")  # before a backend starts: compiling needs no accelerator
    logging.getLogger("tessy_jax.planning").setLevel(logging.INFO)  # large programs take minutes each
    topology, name = Topology.parse(options.topology), str(file)
    if options.json is not None:
        check_writable(options.json.parent)  # before minutes of compiling
    if isinstance(config, SftConfig):
        if options.tokens is not None:
            raise ConfigError("--tokens: a training has no rows that grow; leave it out")
        if options.spans is not None:
            raise ConfigError("--spans: a training has no spans of two authors; leave it out")
        plan = plan_sft(name, config, topology)
    else:
        spans = TYPICAL if options.spans is None else spans_of(options.spans)
        plan = plan_pair(name, config, topology, options.tokens, spans)

    show(plan, Console(highlight=False, markup=False, soft_wrap=True))
    if options.json is not None:
        values = {"overrides": list(overrides)} | plan.to_json()
        write_file(options.json, (json.dumps(values, indent=2) + "\n").encode())
    return DONE if plan.fits else ERROR
