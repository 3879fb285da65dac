"""A kind of predictor from elsewhere: registered from one file, named by a configuration, judging in the loop."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from tessy_jax import models
from tessy_jax.config.schema import describe
from tessy_jax.config.synthesize import PairConfig, PredictorsConfig, SynthesisConfig, load_config
from tessy_jax.engine.pair import Pair as OpenPair
from tessy_jax.errors import ConfigError
from tessy_jax.predictors import registry
from tessy_jax.predictors.base import JudgedModel
from tests.kit import pairs, run_synthesize
from tests.kit.pairs import PROBLEMS, problem, run, same
from tests.kit.vowel_predictor import VOWEL, Vowel, VowelPredictor, vowels


@pytest.fixture
def registered() -> Iterator[None]:
    """The kind is known while the test runs; afterwards everything is as it was."""
    before = {name: field.annotation for name, field in PredictorsConfig.model_fields.items()}
    registry.register(VOWEL)
    yield
    del registry.KINDS["vowel"]
    for name, annotation in before.items():
        PredictorsConfig.model_fields[name].annotation = annotation
    for schema in (PredictorsConfig, PairConfig, SynthesisConfig):
        schema.model_rebuild(force=True)


def write_config(folder: Path, **section: object) -> Path:
    """The tiny pair of the command's tests, its student judged by a predictor of this section."""
    values = yaml.safe_load(run_synthesize.pair().read_text())
    values["predictors"]["student"] = section
    path = folder / "vowel.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_configuration_may_name_it(registered: None, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, kind="vowel", share=0.3))
    assert config.predictors.student == VowelPredictor(kind="vowel", share=0.3)
    assert "Share of vowels from which a token counts as style." in describe(SynthesisConfig)
    pair = OpenPair.open(config)
    assert pair.identity()["student"]["predictor"] == {"kind": "vowel", "share": 0.3}
    assert isinstance(pair.predictors[0].load(None, jnp.float32), Vowel)
    with pytest.raises(ConfigError, match=r"did you mean 'predictors\.student\.share'"):
        load_config(write_config(tmp_path, kind="vowel", shar=0.3))


def test_its_name_is_taken(registered: None) -> None:
    with pytest.raises(ValueError, match="there is a predictor kind 'vowel' already"):
        registry.register(VOWEL)


def test_unregistered_it_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="should be one of 'checkpoint', 'unigram', 'probe', got 'vowel'"):
        load_config(write_config(tmp_path, kind="vowel"))


def test_rows_are_the_oracles(registered: None, tmp_path: Path) -> None:
    """The oracle is told the shares of vowels by this test, not by the predictor."""
    pair = pairs.different_vocabularies(tmp_path)
    shares = (0.3, 0.5)
    predictors, tables = [], []
    for chat, folder, share in zip(pair.chats, pair.folders, shares, strict=True):
        judged = JudgedModel(chat.tokenizer, models.read_config(folder))
        source = registry.open_predictor(VowelPredictor(kind="vowel", share=share), "predictors.x", judged)
        predictors.append(source.load(None, jnp.float32))
        tables.append(np.array([vowels(token) for token in chat.tokenizer.token_bytes()]))
    oracle = dataclasses.replace(
        pair.oracle(),
        encode_for_judge=tuple(chat.tokenizer.encode for chat in pair.chats),
        style=tuple(lambda ids, table=table: table[ids] for table in tables),
        thresholds=shares,
    )
    rejected = 0
    for (id_, sample), record in run(pair.engine(batch=4, predictors=predictors), PROBLEMS[:4]).items():
        trace = oracle.trace(problem(id_).messages, id_, sample)
        same(record, trace, pair)
        rejected += trace.rejected_words
    assert rejected > 4, "the predictor should cut often, or this proves little"
