"""What the tests share: tiny models, vocabularies, oracles, and runs of whole commands."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
