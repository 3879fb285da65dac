"""What a model of a configuration looks like, without its weights: from its folder, from the facts shipped in
`planning/model_configs`, or from the hub's config.json alone.
"""

from pathlib import Path

from tessy_jax import models
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.storage.paths import is_url

SHIPPED = Path(__file__).parent / "model_configs"
"""`<owner>/<name>/config.json` of models that are often named: `planning/model_configs`."""


def read_shapes(name: str, key: str) -> models.DecoderConfig:
    """The architecture of the model that the configuration names at `key`. Never reads or downloads weights.

    Raises:
        ConfigError: there is neither a folder nor a shipped or downloadable config.json.
        models.ModelConfigError: its config.json is of an unknown kind.
    """
    if is_url(name):
        return models.read_config(model_folder(name, key))
    folder = Path(name).expanduser()
    for there in (folder, SHIPPED / name):
        if there.is_dir():
            return models.read_config(there)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"{key}: there is no folder '{name}', and it is no hub id (owner/name) either")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return models.read_config(Path(hf_hub_download(name, "config.json")).parent)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        known = ", ".join(sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in _shipped()))
        raise ConfigError(
            f"{key}: there is no folder '{name}', no shapes are shipped for it, and the hub did not give its "
            f"config.json: {reason}. Make a folder with its config.json, or use one of: {known}"
        ) from None


def _shipped() -> list[Path]:
    return list(SHIPPED.glob("*/*/config.json"))
