"""TESSY in JAX: two language models write one training trace together, and the smaller is then trained on it.

    import tessy_jax as tessy

    config = tessy.load_config("configs/demo.yaml", ["engine.batch=4"])
    engine = tessy.Pair.open(config).load()
    for record in engine.generate(tessy.read_rows(config.input)):
        print(record.to_json())

Each name is imported when it is first used: `import tessy_jax` itself imports neither JAX nor anything large.
"""

import sys
from importlib import import_module

TYPE_CHECKING = False
"""As `typing.TYPE_CHECKING`, whose module takes longer to import than all else here."""


def _begin_command() -> None:
    """Where `python -m tessy_jax.<command>` is about to import it: from here on Ctrl-C ends it without a traceback."""
    if sys.argv[:1] == ["-m"] and any("tessy_jax" in argument for argument in sys.orig_argv):
        import_module("tessy_jax.console.stopping").leave_at_once()


_begin_command()

if TYPE_CHECKING:
    from tessy_jax.config.synthesize import load_config
    from tessy_jax.data.inputs import read_problems, read_rows
    from tessy_jax.data.records import Problem, Record
    from tessy_jax.engine.pair import Pair
    from tessy_jax.errors import UserError
    from tessy_jax.models import load as load_model
    from tessy_jax.models import save_hf as save_model

__all__ = [
    "Pair",
    "Problem",
    "Record",
    "UserError",
    "load_config",
    "load_model",
    "read_problems",
    "read_rows",
    "save_model",
]

_HOMES = {
    "Pair": "tessy_jax.engine.pair:Pair",
    "Problem": "tessy_jax.data.records:Problem",
    "Record": "tessy_jax.data.records:Record",
    "UserError": "tessy_jax.errors:UserError",
    "load_config": "tessy_jax.config.synthesize:load_config",
    "load_model": "tessy_jax.models:load",
    "read_problems": "tessy_jax.data.inputs:read_problems",
    "read_rows": "tessy_jax.data.inputs:read_rows",
    "save_model": "tessy_jax.models:save_hf",
}
"""Where each name is defined."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value  # the next use finds it here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
