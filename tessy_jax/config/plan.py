"""The configurations that `plan` takes: those of `synthesize` and of `sft`."""

from collections.abc import Sequence
from pathlib import Path

from tessy_jax.config.schema import load_as, read_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.errors import ConfigError


def load_either(path: Path, overrides: Sequence[str] = ()) -> SynthesisConfig | SftConfig:
    """The configuration of a file, with overrides as for `load_as`; of which command it is, its keys say.

    Raises:
        ConfigError: it is of neither command, cannot be read, or a key or value is wrong.
    """
    keys = read_yaml(path)
    if "teacher" in keys:
        return load_as(SynthesisConfig, path, overrides)
    if "model" in keys and "data" in keys:
        return load_as(SftConfig, path, overrides)
    raise ConfigError(
        f"{path} is a configuration neither of synthesize (student, teacher) nor of sft (model, data); only those "
        "can be planned"
    )
