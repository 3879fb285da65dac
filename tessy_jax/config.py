"""Typed configuration: one YAML file, dotted overrides, and errors that name the key, the place and the remedy.

Relative paths in a configuration (models, tables, input) are looked for in the current directory, then in the folder of
the YAML file, then in that folder's parent; the first that exists is taken. A name found nowhere stays as written: it
may be a model hub id. So `configs/demo.yaml` of a checkout means the same files from any directory. Paths that a run
creates (`output`, `engine.compilation_cache`) are relative to the current directory.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    Strict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticUndefined


class ConfigError(ValueError):
    """The configuration is wrong; the message has one line per problem and is meant for the user."""


class Config(BaseModel):
    """Base of all configuration sections: immutable, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def _locate(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    for folder in (Path(), *(info.context or ())):
        if (folder / path).exists():
            return str(folder / path)
    return value


Located = Annotated[str, Field(min_length=1), AfterValidator(_locate)]
OutputPath = Annotated[Path, Strict(False), AfterValidator(Path.expanduser)]


class PromptConfig(Config):
    template: str | None = Field(default=None, description="Jinja chat template; null: the checkpoint's own.")
    system: str | None = Field(default=None, description="System message put before the problem; null: none.")
    options: dict[str, Any] = Field(default={}, description="Variables of the template, {reasoning_effort: high}.")
    date: str | None = Field(default=None, description="The date that templates write (GPT-OSS); null: today's.")


class ThinkingConfig(Config):
    """How thinking is written in the model's text; only the student's form appears in records. What is null is as the
    model's control tokens say: GPT-OSS's harmony, or else Qwen3's <think>.
    """

    open: str | None = Field(default=None, description="Text that opens the thinking; null: as the model does.")
    before: str | None = Field(default=None, description="Text between the last thought and the marker; null: same.")
    marker: str | None = Field(default=None, min_length=1, description="Text that ends the thinking; null: same.")
    after: str | None = Field(default=None, description="Text between the marker and the answer; null: same.")


class SamplingConfig(Config):
    temperature: float = Field(default=1.0, ge=0, description="Softmax temperature; 0: greedy.")
    top_k: int = Field(default=0, ge=0, description="Keep the k most probable tokens; 0: all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the fewest tokens with this total probability.")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="Drop tokens below this share of the highest one.")


class RoleConfig(Config):
    model: Located = Field(description="Checkpoint folder, or a model hub id.")
    weights: Literal["int8"] | None = Field(default=None, description="int8: matrices in 8 bits; null: as stored.")
    cache: Literal["int8"] | None = Field(default=None, description="int8: keys and values in 8 bits; null: dtype.")
    experts: Literal["xla", "tokamax"] = Field(
        default="xla", description="What multiplies by the experts' matrices; tokamax needs tessy_jax[kernels]."
    )
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig = ThinkingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def loading(self) -> dict[str, Any]:
        """How `models.load` is to load the model."""
        return {"int8": self.weights == "int8", "kernel": self.experts}


class CheckpointPredictor(Config):
    """A token classifier with two labels (1: style, 0: capability)."""

    kind: Literal["checkpoint"] = Field(description="A token-classification checkpoint.")
    model: Located = Field(description="Checkpoint folder, or a model hub id.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")
    shift: Literal[0, 1] = Field(
        default=1, description="A token's prediction stands at: 1: the token before; 0: itself."
    )
    block: PositiveInt = Field(default=128, description="Context block in tokens (preset paper); two are seen.")


class UnigramPredictor(Config):
    """A table of P(style | token), without context."""

    kind: Literal["unigram"] = Field(description="A table of P(style | token).")
    table: Located = Field(description="File of the table.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")


class ProbePredictor(Config):
    """A linear predictor on the writing model's own hidden states; see `train_probe`."""

    kind: Literal["probe"] = Field(description="A linear predictor on the writing model's own hidden states.")
    model: Located = Field(description="Folder that train_probe wrote.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="P(style) from which a token counts as style; null: the probe's own."
    )


PredictorConfig = Annotated[CheckpointPredictor | UnigramPredictor | ProbePredictor, Field(discriminator="kind")]


class PredictorsConfig(Config):
    student: PredictorConfig = Field(description="Judges the student's words: kept while they are style.")
    teacher: PredictorConfig = Field(description="Judges the teacher's words: kept while they are capability.")


class LoopConfig(Config):
    """A loop is a cycle of tokens at the end of the text, repeated without a break."""

    repeats: int = Field(default=8, ge=2, description="Repetitions of the cycle that make a loop.")
    min_bytes: PositiveInt = Field(default=64, description="Bytes that the repetitions must cover together.")


class Budgets(Config):
    """Limits of one trace; both presets have them."""

    max_think_tokens: PositiveInt = Field(default=30720, description="Tokens of thinking, each in its author's tokens.")
    max_answer_tokens: PositiveInt = Field(default=8192, description="Tokens of the answer.")
    on_budget: Literal["close", "reject"] = Field(
        default="close", description="Past the budget or in a loop: end the thinking, or reject."
    )
    loop: LoopConfig | None = Field(default=LoopConfig(), description="Loop detection; null: off.")


class PaperCooperation(Budgets):
    """Algorithm 1 of the paper; k changes the speed, never the text."""

    preset: Literal["paper"] = Field(description="Algorithm 1 of the paper.")
    k: PositiveInt = Field(default=20, description="Tokens generated per turn.")


class ReleasedCodeCooperation(Budgets):
    """The behaviour of the released code, for comparison with the released data."""

    preset: Literal["released_code"] = Field(description="The behaviour of the released code.")
    k_student: int = Field(default=5, ge=4, description="Tokens per turn of the student; 4 hold a whole character.")
    k_teacher: int = Field(default=10, ge=4, description="Tokens per turn of the teacher.")
    window: PositiveInt = Field(default=200, description="Tokens that the predictors see.")


CooperationConfig = Annotated[PaperCooperation | ReleasedCodeCooperation, Field(discriminator="preset")]


def _default_buckets(data: dict[str, Any]) -> tuple[int, ...]:
    # Longer prompts are read in pieces of the largest bucket: caches with a window must have room for one piece.
    context = data.get("context", 64)
    return tuple(2**n for n in range(6, 11) if 2**n <= context) or (context,)


class EngineConfig(Config):
    batch: PositiveInt = Field(default=8, description="Slots: rows in flight at the same time, over all devices.")
    context: PositiveInt = Field(default=40960, description="Cache slots (tokens) per row and model.")
    prompt_buckets: Annotated[tuple[PositiveInt, ...], Strict(False)] = Field(
        default_factory=_default_buckets,
        min_length=1,
        description="Padded prompt lengths in tokens, ascending, at most context; longer prompts are read in "
        "pieces of the last; default: powers of two from 64 to 1024.",
    )
    chunk: PositiveInt = Field(default=16, description="Tokens per forward pass when a model catches up.")
    turns_per_dispatch: PositiveInt = Field(default=4, description="Turns run on the device before the host looks.")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="Weights, activations and caches.")
    compilation_cache: OutputPath | None = Field(default=None, description="JAX's compilation cache; null: none.")

    @model_validator(mode="after")
    def _check_buckets(self) -> Self:
        buckets = self.prompt_buckets
        if list(buckets) != sorted(set(buckets)) or buckets[-1] > self.context:
            raise ValueError(
                f"has wrong buckets: prompt_buckets must ascend and end at context ({self.context}) or below"
            )
        return self


class MeshConfig(Config):
    data: PositiveInt = Field(default=1, description="Devices along the batch.")
    fsdp: PositiveInt = Field(default=1, description="Devices that share each weight, gathered on use.")
    tensor: PositiveInt = Field(default=1, description="Devices that split heads and hidden features.")
    expert: PositiveInt = Field(default=1, description="Devices that split experts.")


class Columns(Config):
    """Names of the input fields, where detection is not wanted; null: detected."""

    prompt: str | None = Field(default=None, description="Field that holds the prompt: a string or a list of messages.")
    id: str | None = Field(default=None, description="Field that holds the id.")


class SynthesisConfig(Config):
    """Everything `python -m tessy_jax.synthesize` needs to know."""

    student: RoleConfig
    teacher: RoleConfig
    predictors: PredictorsConfig
    cooperation: CooperationConfig = Field(default=PaperCooperation(preset="paper"), description="Meaning of a trace.")
    engine: EngineConfig = EngineConfig()
    mesh: MeshConfig = MeshConfig()
    input: Located = Field(description="Problems: .jsonl, .jsonl.gz, .parquet or a folder of a dataset.")
    columns: Columns | None = Field(default=None, description="Names of the input fields; null: detected per row.")
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    samples: PositiveInt = Field(default=1, description="Traces per problem.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems; null: all.")


def load_config(path: Path, overrides: Sequence[str] = ()) -> SynthesisConfig:
    """The configuration of a YAML file, with overrides such as `engine.batch=8` replacing values or whole sections.

    Raises:
      ConfigError: the file cannot be read, or a key or value is wrong. Every problem is named, one per line.
    """
    return load_as(SynthesisConfig, path, overrides)


def load_as(schema: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """`load_config` for any configuration class."""
    merged: Any = OmegaConf.create(read_yaml(path))
    sources: dict[str, str] = {}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip(". "):
            raise ConfigError(f"override '{override}' is not of the form key=value, for example engine.batch=8")
        try:
            value = OmegaConf.select(OmegaConf.from_dotlist([override]), key)
            OmegaConf.update(merged, key, value, merge=False)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"cannot read override '{override}': {_one_line(error)}") from error
        sources[key] = f"override '{override}'"
    values = OmegaConf.to_container(merged)
    folder = path.expanduser().parent
    try:
        return schema.model_validate(values, context=(folder, folder / ".."))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(schema, error.errors(), values, str(path), sources))) from None


def to_yaml(config: Config) -> str:
    """The configuration with all defaults filled in, as YAML that `load_config` reads back to the same value."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)


class _Dumper(yaml.SafeDumper):
    """Writes line ends and invisible characters as escapes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def describe(schema: type[Config]) -> str:
    """Every key of a configuration class with its default and description, one per line."""
    rows = [(entry.key + entry.variant, entry.default, entry.description) for entry in _entries(schema)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {default:<{widths[1]}}  {text}".rstrip() for key, default, text in rows)


class _Entry(NamedTuple):
    key: str
    variant: str
    default: str
    description: str


def _entries(schema: type[BaseModel], prefix: str = "", variant: str = "") -> Iterator[_Entry]:
    """The leaves of a schema, depth first; sections of a union are listed one after the other."""
    for name, field in schema.model_fields.items():
        key = prefix + name
        sections = list(_sections(field.annotation))
        for section in sections:
            tag = f" ({field.discriminator}: {_tag(section, field.discriminator)})" if field.discriminator else variant
            yield from _entries(section, key + ".", tag)
        if not sections:
            default = _show(field.default) if field.default_factory is None else "derived"
            yield _Entry(key, variant, default, field.description or "")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _tag(section: type[BaseModel], discriminator: Any) -> str:
    return str(get_args(section.model_fields[discriminator].annotation)[0])


def _show(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    return "null" if default is None else repr(default) if isinstance(default, str) else str(default)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a configuration file as they stand there. ConfigError if it cannot be read."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path.expanduser()))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot read {path}: {_one_line(error)}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys with values, not a list")
    return {str(key): value for key, value in values.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(
    schema: type[Config], errors: Sequence[ErrorDetails], values: Any, path: str, sources: Mapping[str, str]
) -> Iterator[str]:
    entries = list(_entries(schema))
    unknown = any(error["type"] == "extra_forbidden" for error in errors)
    for error in errors:
        kind, context, value = error["type"], error.get("ctx", {}), error["input"]
        key = _dotted(error["loc"], values)
        if kind.startswith("union_tag"):  # the key that chooses between variants
            key += "." + context["discriminator"].strip("'")
        if kind == "extra_forbidden":
            for leaf in _leaves(key, value):
                yield f"unknown key '{leaf}' in {_source(leaf, path, sources)}; {_suggest(leaf, entries)}"
        elif kind in ("missing", "union_tag_not_found"):
            if not unknown:  # often the same mistake seen from the other side
                yield f"missing key '{key}' in {path}: add it there, or give {key}=... as an override"
        elif kind != "default_factory_not_called":  # follows from another error
            if kind == "union_tag_invalid":
                problem, value = "should be one of " + context["expected_tags"], context["tag"]
            elif kind in ("model_type", "model_attributes_type"):
                problem = "should be a section with keys of its own"
            elif kind == "path_type":
                problem = "should be a path"
            else:
                problem = str(context.get("error") or error["msg"].removeprefix("Input ").replace("tuple", "list"))
            got = "" if kind == "value_error" else f", got {value!r}"
            yield f"'{key}' in {_source(key, path, sources)} {problem}{got}"


def _dotted(location: Sequence[int | str], values: Any) -> str:
    """The user's key of a pydantic location, which also names the variants of unions."""
    parts: list[str] = []
    for index, part in enumerate(location):
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(values, dict) and index < len(location) - 1:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _leaves(key: str, value: object) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key


def _source(key: str, path: str, sources: Mapping[str, str]) -> str:
    """Where a key was set: the last override of it, of a section around it or of a key within it, else the file."""
    related = [
        place for name, place in sources.items() if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
    ]
    return related[-1] if related else path


def _suggest(key: str, entries: Sequence[_Entry]) -> str:
    if variants := [entry.variant for entry in entries if entry.key == key]:
        return f"it belongs to another variant{', '.join(variants)}"
    known = [entry.key for entry in entries]
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.7):
        return f"did you mean '{near[0]}'?"
    prefix = key.rpartition(".")[0]
    siblings = dict.fromkeys(name for name in known if name.rpartition(".")[0] == prefix)
    return "known keys: " + ", ".join((prefix and siblings) or dict.fromkeys(name.split(".")[0] for name in known))
