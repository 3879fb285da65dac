"""Where a model is: a local folder, a folder on a store, or a hub id that the user named."""

import re
from fnmatch import fnmatch
from pathlib import Path

from tessy_jax.errors import ConfigError
from tessy_jax.storage import far
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import is_url
from tessy_jax.storage.store import Store

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]
_SMALL = 1 << 20
"""Bytes of a file that is copied whole."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name; the hub is not asked."""
    return _HUB_ID.fullmatch(name) is not None


def model_folder(name: str, key: str) -> Path:
    """The folder of the model that the configuration names at `key`. A hub id is downloaded; of a folder on a store the
    weights stay there, and each process reads its own bytes of them.

    Raises:
        ConfigError: it is neither a folder nor a hub id, or the hub does not have it.
        StorageError: the store fails, or has nothing there.
    """
    if is_url(name):
        return local(name, _keep_far)
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


def _keep_far(store: Store, name: str, size: int, file: Path) -> bool:
    """Leaves weights on their store, but for the header of safetensors; and leaves out what no model is read from."""
    if not any(fnmatch(name, pattern) for pattern in _FILES):
        return True
    if not name.endswith(".safetensors") or size < _SMALL:
        return False
    header = int.from_bytes(store.read_range(name, 0, 8), "little")
    far.stand_in(store, name, size, file, begin=min(size, 8 + header))
    return True
