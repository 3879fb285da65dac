"""Typed configuration: one YAML file, dotted overrides, and errors that name the key, the place and the remedy.

Relative paths in a configuration (models, tables, input) are looked for in the current directory, then in the folder of
the YAML file, then in that folder's parent, on a store too; the first that exists is taken. A name found nowhere stays
as written: it may be a model hub id. So `configs/demo.yaml` of a checkout means the same files from any directory.
Paths that a run creates (`output`, `engine.compilation_cache`) are relative to the current directory.
"""

import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    WrapValidator,
)
from pydantic_core import ErrorDetails, PydanticUndefined

from tessy_jax.errors import ConfigError
from tessy_jax.storage.paths import StorageError, StorePath, as_path, is_url


class Config(BaseModel):
    """Base of all sections: immutable, without unknown keys, without silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def _locate(value: str, info: ValidationInfo) -> str:
    if is_url(value):
        return value
    path = Path(value).expanduser()
    for folder in (Path(), *(info.context or ())):
        if isinstance(folder, StorePath):
            from tessy_jax.storage.copies import found_in

            if (found := found_in(folder, value)) is not None:
                return found
        elif (folder / path).exists():
            return str(folder / path)
    return value


def _local(value: Any) -> Any:
    """Refuses a URL, of which a local folder called `s3:` would come."""
    if is_url(value):
        raise ValueError(f"takes no URL yet: copy it, or write it, to a local folder (docs/pods.md), not {value}")
    return value


def _known_url(value: Any) -> Any:
    """Refuses a URL of a storage that nothing here knows."""
    try:
        as_path(value)
    except StorageError as error:
        raise ValueError(f"cannot be a place: {error}") from None
    return value


def _url_or_path(value: Any, validate: Callable[[Any], Path]) -> Path:
    return as_path(_known_url(value)) if is_url(value) else validate(value).expanduser()


LocatedOrStored = Annotated[str, Field(min_length=1), AfterValidator(_known_url), AfterValidator(_locate)]
"""A file or folder that must be there, or a model hub id, found as the module's text says; or a URL on a store."""

RunPath = Annotated[Path, Strict(False), WrapValidator(_url_or_path)]
"""A folder that a run creates, on this machine or on a store."""

OutputPath = Annotated[Path, Strict(False), BeforeValidator(_local), AfterValidator(Path.expanduser)]
"""A file or folder that a run creates, on this machine."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What a wrong name was meant to be, or which names there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"it should be one of {', '.join(known)}"


@dataclass(frozen=True)
class Variants(Generic[ConfigT]):
    """Configurations of one command, of which a key at the top chooses.

    Attributes:
        key: its name.
        schemas: by its values; the first is taken where the key is absent.
    """

    key: str
    schemas: Mapping[str, type[ConfigT]]

    def chosen(self, values: Any, path: str, sources: Mapping[str, str]) -> type[ConfigT]:
        """The class that `values` are of; raises ConfigError where there is none of that name."""
        names = list(self.schemas)
        name = values.get(self.key, names[0]) if isinstance(values, dict) else names[0]
        if name in names:
            return self.schemas[name]
        source = _source(self.key, path, sources)
        raise ConfigError(f"'{self.key}' in {source} names no {self.key}: {name!r}; {nearest(str(name), names)}")

    def tagged(self) -> Iterator[tuple[type[ConfigT], str]]:
        """Every class with what the help says beside keys that only it has."""
        return ((schema, f" ({self.key}: {name})") for name, schema in self.schemas.items())


def load_as(
    schema: type[ConfigT] | Variants[ConfigT],
    path: str | Path,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> ConfigT:
    """The configuration of a YAML file.

    Args:
        schema: the class of the configuration, or those to choose from.
        path: of the file, or its URL on a store.
        overrides: replace values or whole sections, in order: `["engine.batch=8", "mesh={data: 2}"]`.
        values: stand for what is in the file, which then need not be there; messages name `path` all the same.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong. Every problem is named, one per line.
    """
    path = as_path(path)
    merged: Any = OmegaConf.create(_change_texts(read_yaml(path) if values is None else dict(values), _mask))
    sources: dict[str, str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip(". ") or "[" in key:
            raise ConfigError(f"override '{override}' is not of the form key=value, for example engine.batch=8")
        try:
            value = OmegaConf.select(OmegaConf.from_dotlist([_mask(override)]), key)
            OmegaConf.update(merged, key, value, merge=False)
        except Exception as error:  # of YAML, of OmegaConf, or of Python over a value that is none
            hint = f"; a text with braces needs quotes: {key}='{text}'" if text[:1] in "{[" else ""
            raise ConfigError(f"cannot read override '{override}': {_one_line(error)}{hint}") from error
        sources[key] = f"override '{override}'"
    values = cast(dict[str, Any], _change_texts(OmegaConf.to_container(merged), _unmask))
    folder = path.expanduser().parent
    chosen = schema.chosen(values, str(path), sources) if isinstance(schema, Variants) else schema
    try:
        return chosen.model_validate(values, context=(folder, folder / ".."))
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(_known(schema, chosen), error.errors(), values, str(path), sources))
        ) from None


_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9._]+(?:[eE:][-+0-9._:]*)?")


def to_yaml(config: Config) -> str:
    """The configuration with all defaults filled in, as YAML that `load_as` reads back to the same value."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)


class _Dumper(yaml.SafeDumper):
    """Writes line ends and invisible characters as escapes, and in quotes what OmegaConf would take for a number: 0E0,
    for it, is one, and for PyYAML a text.
    """

    def represent_str(self, data: str) -> yaml.ScalarNode:
        plain = data.isprintable() and not _LIKE_A_NUMBER.fullmatch(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def describe(schema: type[Config] | Variants[Any]) -> str:
    """Every key of a configuration class with its default and description, one per line, in columns:

    engine.batch    8      Slots: rows in flight at the same time, over all devices.
    """
    rows = [(entry.key + entry.variant, entry.default, entry.description) for entry in _known(schema)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {default:<{widths[1]}}  {text}".rstrip() for key, default, text in rows)


class _Entry(NamedTuple):
    """A key that holds a value. `variant` is " (kind: probe)" where the key belongs to one variant of a section."""

    key: str
    variant: str
    default: str
    description: str


def _known(schema: type[BaseModel] | Variants[Any], chosen: type[BaseModel] | None = None) -> list[_Entry]:
    """The keys of a schema. Of variants: those of the `chosen` one (None: the first), then what others have besides."""
    if not isinstance(schema, Variants):
        return list(_entries(schema))
    first = chosen or next(iter(schema.schemas.values()))
    entries = list(_entries(first))
    paths = [entry.key.split(".") for entry in entries]
    own = {".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}
    more = (entry for other, tag in schema.tagged() for entry in _entries(other, variant=tag) if entry.key not in own)
    return entries + list(more)


def _entries(schema: type[BaseModel], prefix: str = "", variant: str = "") -> Iterator[_Entry]:
    """The keys of a schema that hold values, depth first; the variants of a section one after the other."""
    for name, field in schema.model_fields.items():
        sections = list(_sections(field.annotation))
        key = prefix + name + (f".{_NAME}" if sections and get_origin(field.annotation) is dict else "")
        chosen_by = field.discriminator or _discriminator(field.annotation)
        for section in sections:
            tag = f" ({chosen_by}: {_tag(section, chosen_by)})" if chosen_by else variant
            yield from _entries(section, key + ".", tag)
        if not sections:
            default = _show(field.default) if field.default_factory is None else "derived"
            yield _Entry(key, variant, default, field.description or "")


_NAME = "<name>"
"""Stands in a key for the name that the user gives to one of several sections."""


def _discriminator(annotation: Any) -> Any:
    """The key that chooses between the variants in a list of sections; None where there are none."""
    named = (getattr(part, "discriminator", None) for part in getattr(annotation, "__metadata__", ()))
    inner = (_discriminator(part) for part in get_args(annotation))
    return next((found for found in (*named, *inner) if found), None)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in a field's type: one, several where it is a union, none where the field holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _tag(section: type[BaseModel], discriminator: Any) -> str:
    """The value that chooses this variant: "probe" of `kind: Literal["probe"]`."""
    return str(get_args(section.model_fields[discriminator].annotation)[0])


def _show(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    return "null" if default is None else repr(default) if isinstance(default, str) else str(default)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a configuration file as they stand there; raises ConfigError where it cannot be read."""
    from tessy_jax.storage.copies import read_file  # here, for what it opens stores with takes a while to import

    try:
        text = _mask(read_file(path.expanduser()).decode("utf-8"))
        values = _change_texts(OmegaConf.to_container(OmegaConf.load(io.StringIO(text))), _unmask)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except StorageError:
        raise
    except Exception as error:  # of YAML, of OmegaConf, or of Python over a value that is none (a date, a deep nesting)
        raise ConfigError(f"cannot read {path}: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys with values, not a list")
    return {str(key): value for key, value in values.items()}


_DOLLAR = "\ue7c3"
"""Stands for the $ of ${ while OmegaConf, to which ${ would be a reference, holds the values: here it is text, such as
the LaTeX of a prompt.
"""


def _mask(text: str) -> str:
    return text.replace("${", _DOLLAR + "{")


def _unmask(text: str) -> str:
    return text.replace(_DOLLAR + "{", "${")


def _change_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The value with all its texts changed, keys included."""
    if isinstance(value, dict):
        return {_change_texts(key, change): _change_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_change_texts(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


# -- what is wrong, in words -------------------------------------------------------------------------------------------


def _one_line(error: Exception) -> str:
    text = _unmask(str(error)).replace('in "<file>", ', "at ")
    return " ".join(text.split()) or type(error).__name__


def _explain(
    entries: Sequence[_Entry], errors: Sequence[ErrorDetails], values: Any, path: str, sources: Mapping[str, str]
) -> Iterator[str]:
    """One line for each error of pydantic's: the key as the user writes it, where it was set, and the remedy.

    Args:
        entries: the keys that there are.
        values: what was checked, overrides included.
        path: of the file.
        sources: what each override is called, by its key.
    """
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
    """The key as the user writes it. A location of pydantic's also names the variant of a section, which is left out:

    ("predictors", "student", "probe", "threshold")  ->  "predictors.student.threshold"
    """
    parts: list[str] = []
    for index, part in enumerate(location):
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(values, dict) and index < len(location) - 1:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _leaves(key: str, value: object) -> Iterator[str]:
    """The keys with values in a section, or the key itself where it holds a value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key


def _source(key: str, path: str, sources: Mapping[str, str]) -> str:
    """Where a key was set: by the last override of it, of a section around it or of a key within it, or in the file."""
    related = [
        place for name, place in sources.items() if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
    ]
    return related[-1] if related else path


def _suggest(key: str, entries: Sequence[_Entry]) -> str:
    """What an unknown key was meant to be: a key of another variant, one with a similar name, or one of its section."""
    if variants := [entry.variant for entry in entries if entry.key == key]:
        return f"it belongs to another variant{','.join(variants)}"
    known = [_with_names_of(key, entry.key) for entry in entries]
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.7):
        return f"did you mean '{near[0]}'?"
    prefix = key.rpartition(".")[0]
    siblings = dict.fromkeys(name for name in known if name.rpartition(".")[0] == prefix)
    return "known keys: " + ", ".join((prefix and siblings) or dict.fromkeys(name.split(".")[0] for name in known))


def _with_names_of(leaf: str, key: str) -> str:
    """A key with the user's names: "arms.a.lr" and "arms.<name>.rate" give "arms.a.rate"."""
    given = leaf.split(".")
    return ".".join(given[at] if part == _NAME and at < len(given) else part for at, part in enumerate(key.split(".")))
