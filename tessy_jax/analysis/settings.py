"""What `analyse` looks at, and with whose eyes: its options, and the student as a configuration has it."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tessy_jax.config.schema import read_yaml
from tessy_jax.config.sections import PromptConfig, SamplingConfig, ThinkingConfig
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.storage.copies import is_there, local
from tessy_jax.storage.paths import StorePath


@dataclass(frozen=True)
class Settings:
    """Of one analysis.

    Attributes:
        data: run directories, files and folders; each is a data set.
        reference: text of the student's own, to compare with.
        draw: how many such texts the student writes first, where there are none; 0: none.
        student: folder of the model that is to learn the data.
        teacher: folder of the other model, for its token boundaries.
        benchmarks: files of problems that the data should not hold.
        judged: output of `evaluate`, whose verdicts belong to the data's ids.
        prompt, thinking: of the student, as when it is trained.
        sampling: how it draws.
        length: tokens of a trace that are read; longer ones are cut off, as in training.
        limit: rows of each data set; None: all.
        dtype: in which the student reads.
        batch_tokens: how many tokens it reads at a time.
    """

    data: tuple[Path, ...]
    reference: Path | None
    draw: int
    student: Path
    teacher: Path | None
    benchmarks: tuple[Path, ...]
    judged: Path | None
    output: Path
    prompt: PromptConfig
    thinking: ThinkingConfig
    sampling: SamplingConfig
    length: int
    limit: int | None
    dtype: Literal["float32", "bfloat16"]
    batch_tokens: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Settings":
        """Reads the options. Without `--student` the student is that of the first run directory.

        Raises:
            ConfigError: something that an option names is not there, or no student is named.
        """
        for place in (*options.data, options.reference, *options.benchmark, options.judged):
            if place is not None and not _is_there(place.expanduser()):
                raise ConfigError(f"there is no file or folder '{place}'")
        if options.draw is not None and options.reference:
            raise ConfigError("--draw: the student's own text is given already (--reference); leave one of them out")
        for name in ("draw", "length", "limit", "batch_tokens"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: must be 1 or more, not {value}")
        section = _section_of(options.config) if options.config else _first_section(options.data)
        student = options.student or section.get("model")
        if student is None:
            raise ConfigError("--student: name the model that is to learn the data: a checkpoint folder, or a hub id")
        if not options.config and options.student and Path(student).name != Path(str(section.get("model"))).name:
            section = {}  # the run's student is another one, and so are its prompts
        return cls(
            data=tuple(place.expanduser() for place in options.data),
            reference=options.reference and options.reference.expanduser(),
            draw=options.draw or 0,
            student=model_folder(student, "--student"),
            teacher=options.teacher and model_folder(options.teacher, "--teacher"),
            benchmarks=tuple(options.benchmark),
            judged=options.judged,
            output=options.output,
            prompt=_checked(PromptConfig, section, "prompt"),
            thinking=_checked(ThinkingConfig, section, "thinking"),
            sampling=_checked(SamplingConfig, section, "sampling"),
            length=options.length,
            limit=options.limit,
            dtype=options.dtype,
            batch_tokens=options.batch_tokens,
        )


def _is_there(place: Path) -> bool:
    return is_there(place) if isinstance(place, StorePath) else place.exists()


def _first_section(data: list[Path]) -> Mapping[str, Any]:
    found = (local(place.expanduser()) / "config.yaml" for place in data)
    return next((_section_of(file) for file in found if file.is_file()), {})


def _section_of(file: Path) -> Mapping[str, Any]:
    """The part of a configuration that says which model is the student and how it is asked: `student` of synthesize,
    `model` of evaluate, or all of sample and sft.
    """
    values = read_yaml(file)
    inner = values.get("student", values.get("model"))
    return inner if isinstance(inner, dict) else values


def _checked(schema: Any, section: Mapping[str, Any], name: str) -> Any:
    try:
        return schema.model_validate(section.get(name) or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"'{name}.{'.'.join(map(str, first['loc']))}' of the configuration: {first['msg']}") from None
