"""What a command is: a name, options, perhaps a configuration, and what it runs; errors end in words and an exit code.

    CONFIG = ConfigFile(SampleConfig, "configs/sample_demo.yaml", example="engine.batch=8")
    main = Command(
        name="sample",
        description="One model writes.",
        config=CONFIG,
        options=(input_option("problems"), OVERWRITE),
        run=run,  # of (options, console): begins with CONFIG.load(options)
    )

What a command runs is imported when it runs, so that `--help` and wrong usage answer at once.
"""

import argparse
import json
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rich.console import Console

from tessy_jax.config.schema import Config, Variants, describe, load_as
from tessy_jax.console import output
from tessy_jax.console.messages import complain, say
from tessy_jax.console.stopping import Stoppable
from tessy_jax.devices import jax_settings, pod
from tessy_jax.devices.host_memory import keep_freed_memory
from tessy_jax.errors import ERROR, INTERRUPTED, READER_LEFT, UserError
from tessy_jax.storage.paths import StorePath, as_path, local_path

ConfigT = TypeVar("ConfigT", bound=Config)


# -- options -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """An option of a command, or a positional argument: what `argparse.ArgumentParser.add_argument` takes."""

    name: str
    settings: dict[str, Any]


def option(name: str, help: str, **settings: Any) -> Option:
    """An option; `name` is as the user writes it, a positional argument has no dashes."""
    return Option(name, {"help": help} | settings)


def input_option(what: str) -> Option:
    return option("--input", f"{what}; the same as input=…")


def output_option(what: str = "run directory") -> Option:
    return option("--output", f"{what}; the same as output=…")


def limit_option(what: str) -> Option:
    return option("--limit", f"stop after this many {what}; the same as limit=…", type=int)


def dry_run_option(what: str) -> Option:
    return option("--dry-run", f"show {what}, then stop", action="store_true")


def show_option(what: str) -> Option:
    return option("--show", f"print {what}", action="store_true")


def compare_option(help: str, metavar: str | tuple[str, str], place: Callable[[str], Path] = local_path) -> Option:
    """Two folders to compare, instead of what the command does otherwise; `place` says where they may be."""
    return option("--compare", help, nargs=2, type=place, metavar=metavar)


OVERWRITE = option("--overwrite", "start anew where an earlier run wrote", action="store_true")
POD = option("--pod", "join the other processes of a TPU pod or cluster", action="store_true")
POD_TIMEOUT = option(
    "--pod-timeout",
    "end when another process of the pod has not been heard of for so long; default: 100",
    type=int,
    default=100,
    metavar="SECONDS",
)
SHARD = option("--shard", "write one of N parts, 0/N to N-1/N; auto/N: as the array job counts", metavar="I/N")

TRACE_OPTIONS = (
    input_option("problems"),
    output_option(),
    limit_option("problems"),
    dry_run_option("prompts, plan and memory"),
    OVERWRITE,
    show_option("finished traces in colour by author"),
    POD,
    POD_TIMEOUT,
    SHARD,
)
"""Of the commands that write traces."""


# -- the configuration -------------------------------------------------------------------------------------------------


def config_options(default: str, example: str, help: str | None = None) -> tuple[Option, ...]:
    """The file and the overrides, which come before all other options.

    Args:
        default: the file that is read where none is named.
        example: an override, for the help.
        help: what the file is; None: any YAML file.
    """
    file_help = f"a YAML file, or its URL; default: {default}" if help is None else help
    return (
        option("config", file_help, nargs="?", type=as_path, default=Path(default)),
        option("overrides", f"dotted overrides, e.g. {example}", nargs="*", metavar="key=value"),
    )


class ConfigChoice(NamedTuple):
    """The configuration file that the user chose, and all overrides, those of the named options last."""

    file: Path
    overrides: list[str]


def choose_config(options: argparse.Namespace, default: str) -> ConfigChoice:
    """Reads file and overrides off the options: where the file is left out, an override may stand in its place.

    `engine.batch=4 seed=1 --limit 3` gives the default file with `engine.batch=4`, `seed=1`, `limit=3`.
    """
    file, overrides = options.config, list(options.overrides)
    if "=" in str(file) and not isinstance(file, StorePath) and not file.exists():
        overrides.insert(0, str(file))
        file = Path(default)
    for name in ("input", "output", "limit"):
        if (value := getattr(options, name, None)) is not None:
            overrides.append(f"{name}={json.dumps(value)}")
    return ConfigChoice(file, overrides)


@dataclass(frozen=True)
class ConfigFile(Generic[ConfigT]):
    """The configuration of a command.

    Attributes:
        schema: its keys, or variants of them.
        default: the file that is read where the user names none.
        example: an override, for the help.
        help: what the file is; None: any YAML file.
    """

    schema: type[ConfigT] | Variants[ConfigT]
    default: str
    example: str
    help: str | None = None

    def load(self, options: argparse.Namespace) -> ConfigT:
        """The configuration that the user chose. Raises ConfigError, which names every wrong key and value."""
        return load_as(self.schema, *choose_config(options, self.default))


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        """Argparse says nothing where its help cannot be written; this raises OutputError."""
        if file is None:
            output.write(self.format_help())
        else:
            super().print_help(file)


# -- the command -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command; calling it runs it.

    Attributes:
        name: it is `python -m tessy_jax.<name>`.
        description: what it does, for the help.
        config: its configuration, if it has one.
        options: in the order of the help; those of the configuration come first.
        run: does the work, given the options and a console for messages, and returns the exit code.
        epilog: the end of the help, where no configuration puts its keys there.
        interrupted: what Ctrl-C says outside of a loop; within one see `Interrupt`.
    """

    name: str
    description: str
    options: Sequence[Option]
    run: Callable[[argparse.Namespace, Console], int]
    config: ConfigFile[Any] | None = None
    epilog: str = ""
    interrupted: str = "interrupted; the same command goes on from here"

    def __call__(self, argv: list[str] | None = None) -> int:
        """Runs the command with these arguments, by default those of the process, and returns its exit code.

        An error that the user can mend is printed as a message; any other ends in a traceback. The options get one
        more, `command`: the whole command as the user could type it.
        """
        output.accept_any_character()
        with Stoppable() as stop:
            try:
                try:
                    code = self._run(sys.argv[1:] if argv is None else argv, stop)
                finally:
                    output.flush()
            except KeyboardInterrupt:
                say(Console(stderr=True), self.interrupted)
                code = INTERRUPTED
            except output.ReaderLeft as left:
                code = left.exit_code
            except output.OutputError as error:
                code = complain(Console(stderr=True), error, error.exit_code)
            except SystemExit as end:  # of help and wrong usage, or of Rich
                if not output.rich_lost_reader(end):
                    raise
                code = READER_LEFT
            pod.leave(code)
            stop.end_process(code)
        return code

    def _run(self, arguments: list[str], stop: Stoppable) -> int:
        console = Console(stderr=True)
        try:
            options = self._parser().parse_intermixed_args(arguments)
            options.command = shlex.join(["python", "-m", f"tessy_jax.{self.name}", *arguments])
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
            keep_freed_memory()
            for note in jax_settings.settle():
                say(console, note)
            with pod.membership():
                return self.run(options, console)
        except BaseException as error:
            if stop.asked:  # whatever it is, it came of that
                raise KeyboardInterrupt from None
            return self._explain(error, console)

    @staticmethod
    def _explain(error: BaseException, console: Console) -> int:
        if isinstance(error, output.OutputError):  # there may be nobody to say it to
            raise error
        if isinstance(error, UserError):
            return complain(console, error, error.exit_code)
        if isinstance(error, OSError):  # a file of the user's, which nobody expected to fail
            output.blame(error)  # or what is printed cannot be written
            return complain(console, error, ERROR)
        if isinstance(error, Exception) and (refusal := jax_settings.explain(error)):
            return complain(console, refusal, refusal.exit_code)
        if pod.ends_alone():  # and so Python's end, which waits for the others, does not come
            traceback.print_exception(error)
            return ERROR
        raise error

    def _parser(self) -> argparse.ArgumentParser:
        parser = _Parser(
            prog=f"python -m tessy_jax.{self.name}", description=self.description, epilog=self.epilog or None
        )
        options = list(self.options)
        if self.config is not None:
            options = [*config_options(self.config.default, self.config.example, self.config.help), *options]
            parser.formatter_class = argparse.RawDescriptionHelpFormatter
            parser.epilog = "configuration keys, for the YAML file and as key=value:\n\n" + describe(self.config.schema)
        for each in options:
            parser.add_argument(each.name, **each.settings)
        return parser
