"""Where a model is: a local folder, or a hub id that the user named."""

import re
from pathlib import Path

from tessy_jax.errors import ConfigError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name; the hub is not asked."""
    return _HUB_ID.fullmatch(name) is not None


def model_folder(name: str, key: str) -> Path:
    """The folder of the model that the configuration names at `key`; a hub id is downloaded (the only network access).

    Raises:
        ConfigError: it is neither a folder nor a hub id, or the hub does not have it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or folder.suffix == ".gguf":
        remedy = "give its folder"
        if folder.suffix == ".gguf":
            remedy = f"convert it to a folder first: python -m tessy_jax.convert {name} {folder.stem}"
        raise ConfigError(f"{key}: '{name}' is not a folder with a Hugging Face checkpoint; {remedy}")
    if not is_hub_id(name):
        raise ConfigError(f"{key}: there is no folder '{name}', and it is no hub id (owner/name) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{key}: there is no folder '{name}', and the hub did not give it either: {reason}"
        ) from error
