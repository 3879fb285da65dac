"""A probe from its configuration to its exit code: read the states, choose the layer, fit, report, save."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax import models
from tessy_jax.config.train_probe import ProbeFitConfig, TrainProbeConfig
from tessy_jax.console.messages import tell
from tessy_jax.data.hashing import hash_folder
from tessy_jax.data.run_folder import explained
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.errors import DONE, REJECTS, ConfigError
from tessy_jax.predictors.probe import Probe, ProbeParams
from tessy_jax.predictors.scores import best_threshold, evaluate, f1
from tessy_jax.predictors.unigram import Unigram
from tessy_jax.storage.copies import local
from tessy_jax.storage.files import result_folder
from tessy_jax.train.data.probe_data import CHOOSE, FIT, HELD_OUT, ProbeData
from tessy_jax.train.predictor_eval import predicted_tokens
from tessy_jax.train.predictor_report import write_report
from tessy_jax.train.probe import Features, Fit, fit, read_features

_KEPT = ("tokens", "style_tokens", "responses", "scores", "baseline")
"""Numbers of the report that `probe.json` has too."""


def train_probe(config: TrainProbeConfig, options: argparse.Namespace, console: Console) -> int:
    """Trains a probe on the hidden states of the model that writes, and returns the exit code.

    Args:
        options: of the command: dry_run, and `command`, its whole command line, for the report.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    _check_files(config)
    mesh = make_mesh(config.mesh, config.rows, "rows")
    writer = ModelSource.open(config.writer, "writer.model")
    shapes = models.read_config(writer.folder)
    layers = _layers(config.layers, shapes.num_hidden_layers)
    data = ProbeData.open(config.data, writer.chat, config.writer.prompt.system, shapes.max_position_embeddings)
    size = len(layers) * len(data.style) * shapes.hidden_size * 2 / 2**30
    summary = f"{data.summary()}\n{len(layers)} layers; {size:.2f} GiB on disk meanwhile"
    if options.dry_run:
        out = Console(highlight=False, markup=False, soft_wrap=True)
        out.print(summary)
        for reject in data.rejects:
            out.print(f"reject: {reject}")
        return REJECTS if data.rejects else DONE

    compilation_cache.use(config)
    tell(console, summary)
    for reject in data.rejects[:5]:
        tell(console, f"reject: {reject}")
    data.check()
    with ExitStack() as stack:
        with explained(config.output):
            folder = stack.enter_context(result_folder(config.output, last="probe.json"))
        result = _train(config, options.command, writer, data, mesh, layers, folder, console)
    tell(console, result)
    if data.rejects:
        tell(console, f"{len(data.rejects)} rows or segments could not be used")
    return REJECTS if data.rejects else DONE


def _train(
    config: TrainProbeConfig,
    command: str,
    writer: ModelSource,
    data: ProbeData,
    mesh: Mesh | None,
    layers: list[int],
    folder: Path,
    console: Console,
) -> str:
    """Trains the probe, and writes it and its report into a folder; returns what came of it, for people."""
    shapes = models.read_config(writer.folder)
    tell(console, f"reading the responses with {writer.folder}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".states-") as scratch:
        model = models.load(writer.folder, mesh=mesh, dtype=jnp.dtype(config.dtype), **writer.config.loading)
        length = _row_length(data, config.data.length)
        features = read_features(model, data.responses, layers, length, config.rows, Path(scratch) / "states")
        choice = _choose(features, data, shapes.vocab_size, config.fit, console)
        probe = _fit(features, data, choice, writer, shapes.vocab_size, config.fit)
        numbers = _evaluate(probe, features, choice, data, config.baseline)
    about = {
        "kind": "probe",
        "model": config.writer.model,
        "layer": f"{probe.layer} of 0 … {shapes.num_hidden_layers - 1}",
        "token biases": int(np.count_nonzero(np.asarray(probe.params.token_bias))),
        "fitted on": ", ".join(config.data.annotated),
        "command": command,
        "use it as": f"{{kind: probe, model: {config.output}}}",
        "layers": choice.tried,
    }
    write_report(folder, "Boundary predictor: probe", about, numbers)
    probe.save(
        folder,
        shapes,
        name=config.writer.model,
        weights=hash_folder(writer.folder),
        metrics={name: numbers[name] for name in _KEPT if name in numbers},
        command=command,
    )
    return _result(probe, numbers, config.output)


def _check_files(config: TrainProbeConfig) -> None:
    for key, sources in (("annotated", config.data.annotated), ("responses", config.data.responses)):
        for source in sources:
            if not local(source).expanduser().exists():
                raise ConfigError(f"data.{key}: there is no file or folder '{source}'")
    if config.baseline is not None and not local(config.baseline).expanduser().is_file():
        raise ConfigError(f"baseline: there is no file '{config.baseline}'")


def _layers(wanted: Sequence[int] | None, count: int) -> list[int]:
    """The layers to try, from 0: all, or those wanted, where -1 is the last."""
    if wanted is None:
        return list(range(count))
    wrong = [layer for layer in wanted if not -count <= layer < count]
    if wrong:
        raise ConfigError(f"layers: there is no layer {wrong[0]}; the model has {count}, from 0 to {count - 1}")
    return sorted({layer % count for layer in wanted})


def _row_length(data: ProbeData, most: int) -> int:
    """Tokens of a row that the model reads: the longest response's, as a multiple of 128 from 256 on."""
    longest = max(len(response.ids) for response in data.responses)
    return min(most, max(256, -(-longest // 128) * 128))


class _Choice(NamedTuple):
    """The layer whose states tell the classes apart best.

    Attributes:
        tried: number, F1 and best threshold of each layer, for the report.
        best: its index in `Features.layers`.
    """

    tried: list[dict[str, Any]]
    best: int

    @property
    def threshold(self) -> float:
        return self.tried[self.best]["threshold"]


def _choose(features: Features, data: ProbeData, vocabulary: int, config: ProbeFitConfig, console: Console) -> _Choice:
    """Fits a probe on each layer, and compares them on the tokens to choose by; of equals, the first is taken."""
    fitted, asked = data.sides == FIT, data.sides == CHOOSE
    tried: list[dict[str, Any]] = []
    for index, layer in enumerate(features.layers):
        hidden = features.of(index)
        one = fit(hidden[fitted], features.tokens[fitted], data.style[fitted], vocabulary, config)
        p = one.p(hidden[asked], features.tokens[asked])
        threshold = best_threshold(data.style[asked], p)
        tried.append({"layer": layer, "f1": f1(data.style[asked], p >= threshold), "threshold": threshold})
        tell(console, f"layer {layer}: F1 {tried[-1]['f1']:.3f} at {threshold}")
    return _Choice(tried, max(range(len(tried)), key=lambda i: (tried[i]["f1"], -i)))


def _fit(
    features: Features, data: ProbeData, choice: _Choice, writer: ModelSource, vocabulary: int, config: ProbeFitConfig
) -> Probe:
    """The probe of the best layer, fitted on all tokens that are not held out; biases of tokens as they are stored, in
    16 bits.
    """
    known, index = data.sides != HELD_OUT, choice.best
    centred = fit(features.of(index)[known], features.tokens[known], data.style[known], vocabulary, config)
    found = centred.moved(features.centre[index])
    biases = found.token_bias.astype(np.float16).astype(np.float32)
    params = ProbeParams(jnp.asarray(found.weight, jnp.float32), jnp.float32(found.bias), jnp.asarray(biases))
    return Probe(writer.chat.tokenizer, params, features.layers[index], choice.threshold)


def _evaluate(
    probe: Probe, features: Features, choice: _Choice, data: ProbeData, word_list: str | None
) -> dict[str, Any]:
    """The report's numbers, on the held-out tokens."""
    weight, bias, token_bias = probe.params.weight, probe.params.bias, probe.params.token_bias
    final = Fit(np.asarray(weight), float(bias), np.asarray(token_bias)).moved(-features.centre[choice.best])
    p = final.p(features.of(choice.best), features.tokens)
    found = predicted_tokens(data.segments, data.held_out_by_segment(p))
    baseline = None
    if word_list is not None:
        table = np.asarray(Unigram.load(local(word_list), probe.tokenizer, threshold=0.5).params)
        listed = data.held_out_by_segment(table[features.tokens])
        baseline = predicted_tokens(data.segments, listed).p
    return evaluate(found.tokens, found.p, probe.threshold, baseline)


def _result(probe: Probe, numbers: dict[str, Any], output: Path) -> str:
    """What came of it, for people."""
    score = numbers["scores"]["style"]["f1"]
    gain = numbers.get("baseline", {}).get("f1_gain")
    compared = "" if gain is None else f"; {gain['value']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f}) to the list"
    return (
        f"layer {probe.layer}, threshold {probe.threshold}: F1 of style {score['value']:.3f} ({score['low']:.3f} … "
        f"{score['high']:.3f}){compared}\nthe probe is in {output}, its report is {output}/report.html"
    )
