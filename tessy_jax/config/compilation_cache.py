"""Where compiled programs are kept between commands."""

from typing import Annotated

from pydantic import Field

from tessy_jax.config.schema import OutputPath

CompilationCache = Annotated[
    OutputPath | None,
    Field(description="Folder for compiled programs; default: tessy_jax/jax in the user's caches; null: none."),
]


def not_given() -> None:
    """The default. It stays out of resolved configurations, which are the same for every user and machine: whoever uses
    the key looks whether it was given (`model_fields_set`).
    """
