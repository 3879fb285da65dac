"""Train a probe on hidden states of the model that writes: `python -m tessy_jax.train_probe [CONFIG] [key=value …]`."""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from rich.console import Console

from tessy_jax import models
from tessy_jax.analysis.predictor_report import write_report
from tessy_jax.analysis.reproduced import compare
from tessy_jax.config.predictors import TrainProbeConfig
from tessy_jax.console import app
from tessy_jax.console.messages import tell
from tessy_jax.data.hashing import hash_folder
from tessy_jax.data.inputs import InputError, Reject
from tessy_jax.data.run_folder import explained
from tessy_jax.data.split import held_out
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.errors import DONE, ERROR, REJECTS, ConfigError
from tessy_jax.predictors.base import Unigram
from tessy_jax.predictors.probe import Probe, ProbeParams
from tessy_jax.predictors.scores import best_threshold, evaluate, f1
from tessy_jax.train.data.examples import CONTEXT
from tessy_jax.train.predictor_eval import judged_tokens
from tessy_jax.train.probe import Features, Fit, Response, fit, read_features, read_responses, styles

CONFIG = app.ConfigFile(TrainProbeConfig, "configs/probe_demo.yaml", example="fit.l2=0.01")
COMPARED = "say whether one probe reproduces what was measured of another; trains nothing"


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains the probe, or compares two probes."""
    if options.compare:
        verdict = compare(*options.compare)
        tell(console, verdict.words)
        return DONE if verdict.reproduced else ERROR
    return _run(CONFIG.load(options), options.command, options, console)


main = app.Command(
    name="train_probe",
    description="Trains a probe: a linear predictor on the hidden states of the model that writes.",
    config=CONFIG,
    options=(
        app.output_option("folder of the probe"),
        app.dry_run_option("data and sizes"),
        app.compare_option(COMPARED, ("PROBE", "SHIPPED")),
    ),
    interrupted="interrupted; nothing was written",
    run=run,
)


def _run(config: TrainProbeConfig, command: str, options: argparse.Namespace, console: Console) -> int:
    data = config.data
    for key, sources in (("annotated", data.annotated), ("responses", data.responses)):
        for source in sources:
            if not Path(source).expanduser().exists():
                raise ConfigError(f"data.{key}: there is no file or folder '{source}'")
    if config.baseline is not None and not Path(config.baseline).expanduser().is_file():
        raise ConfigError(f"baseline: there is no file '{config.baseline}'")
    mesh = make_mesh(config.mesh, config.rows, "rows")
    writer = ModelSource.open(config.writer, "writer.model")
    model_config = models.read_config(writer.folder)
    layers = _layers(config.layers, model_config.num_hidden_layers)
    every, rejects = read_responses(
        [Path(source) for source in data.annotated],
        [Path(source) for source in data.responses],
        writer.chat,
        config.writer.prompt.system,
        min(data.length, model_config.max_position_embeddings),
    )
    responses = _some(every, data.max_tokens)
    sides = _sides(responses, data.held_out, data.choose)
    labels = sum(response.labels for response in responses)
    style = styles(responses)
    out = (
        f"{len(responses)} of {len(every)} responses, {labels:,} labelled tokens, {style.mean():.1%} style; "
        f"{(sides == 0).sum():,} to fit, {(sides == 1).sum():,} to choose, {(sides == 2).sum():,} held out\n"
        f"{len(layers)} layers; {len(layers) * labels * model_config.hidden_size * 2 / 2**30:.2f} GiB on disk meanwhile"
    )
    if options.dry_run:
        Console(highlight=False, markup=False, soft_wrap=True).print(out)
        return DONE
    tell(console, out)
    for reject in rejects[:5]:
        tell(console, f"reject: {_words(reject)}")
    for side, name in ((0, "to fit"), (1, "to choose"), (2, "held out")):
        if len(set(style[sides == side])) < 2:
            raise InputError(f"the tokens {name} are all of one kind or none: annotate more prompts")
    with explained(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
    tell(console, f"reading the responses with {writer.folder}")
    with tempfile.TemporaryDirectory(dir=config.output, prefix=".states-") as scratch:
        model = models.load(writer.folder, mesh=mesh, dtype=jnp.dtype(config.dtype), **writer.config.loading)
        length = max(len(response.ids) for response in responses)
        length = min(data.length, max(256, -(-length // 128) * 128))
        features = read_features(model, responses, layers, length, config.rows, Path(scratch) / "states")
        tried, index, threshold = _choose(features, style, sides, model_config.vocab_size, config, console)
        known = sides < 2
        final = fit(
            *(features.of(index)[known], features.tokens[known], style[known], model_config.vocab_size, config.fit)
        )
        probe = _probe(final.moved(features.centre[index]), layers[index], threshold, writer)
        metrics = _report(config, probe, responses, features, index, sides, tried, command, writer)
        _save(probe, config, metrics, command, writer, model_config)
    gain = metrics.get("baseline", {}).get("f1_gain")
    score = metrics["scores"]["style"]["f1"]
    compared = "" if gain is None else f"; {gain['value']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f}) to the list"
    tell(
        console,
        f"layer {probe.layer}, threshold {threshold}: F1 of style {score['value']:.3f} ({score['low']:.3f} … "
        f"{score['high']:.3f}){compared}\nthe probe is in {config.output}, its report is {config.output}/report.html",
    )
    if rejects:
        tell(console, f"{len(rejects)} rows or segments could not be used")
    return REJECTS if rejects else DONE


def _words(reject: Reject | str) -> str:
    return reject if isinstance(reject, str) else f"{reject.file}:{reject.line}: {reject.reason}"


def _layers(wanted: Sequence[int] | None, count: int) -> list[int]:
    if wanted is None:
        return list(range(count))
    wrong = [layer for layer in wanted if not -count <= layer < count]
    if wrong:
        raise ConfigError(f"layers: there is no layer {wrong[0]}; the model has {count}, from 0 to {count - 1}")
    return sorted({layer % count for layer in wanted})


def _some(responses: list[Response], limit: int) -> list[Response]:
    """Whole responses with at most `limit` labels together, drawn by hash."""

    def number(response: Response) -> bytes:
        return hashlib.sha256(f"{response.id}#{response.sample_index}".encode()).digest()

    kept: set[int] = set()
    for i in sorted(range(len(responses)), key=lambda i: number(responses[i])):
        limit -= responses[i].labels
        if limit < 0 and kept:
            break
        kept.add(i)
    return [responses[i] for i in sorted(kept)]


def _sides(responses: list[Response], held: float, choose: float) -> np.ndarray:
    """For each labelled token 0: to fit, 1: to choose layer and threshold, 2: held out; split by prompt."""
    out = held_out([response.id for response in responses], held)
    rest = sorted({response.id for response, side in zip(responses, out, strict=True) if not side})
    chosen = dict(zip(rest, held_out([f"choose {name}" for name in rest], choose), strict=True))
    side = [2 if out_ else int(chosen[r.id]) for r, out_ in zip(responses, out, strict=True)]
    return np.repeat(side, [response.labels for response in responses])


def _choose(
    features: Features,
    style: Bool[np.ndarray, " N"],
    sides: np.ndarray,
    vocabulary: int,
    config: TrainProbeConfig,
    console: Console,
) -> tuple[list[dict[str, Any]], int, float]:
    """(F1 of each layer, the best one's index, its threshold), on the tokens to choose by."""
    fitted, asked = sides == 0, sides == 1
    tried = []
    for index, layer in enumerate(features.layers):
        hidden = features.of(index)
        one = fit(hidden[fitted], features.tokens[fitted], style[fitted], vocabulary, config.fit)
        p = one.p(hidden[asked], features.tokens[asked])
        threshold = best_threshold(style[asked], p)
        tried.append({"layer": layer, "f1": f1(style[asked], p >= threshold), "threshold": threshold})
        tell(console, f"layer {layer}: F1 {tried[-1]['f1']:.3f} at {threshold}")
    best = max(range(len(tried)), key=lambda i: (tried[i]["f1"], -i))
    return tried, best, tried[best]["threshold"]


def _probe(found: Fit, layer: int, threshold: float, writer: ModelSource) -> Probe:
    """As it is stored: with biases of 16 bits."""
    biases = found.token_bias.astype(np.float16).astype(np.float32)
    params = ProbeParams(jnp.asarray(found.weight, jnp.float32), jnp.float32(found.bias), jnp.asarray(biases))
    return Probe(writer.chat.tokenizer, params, layer, threshold)


def _report(
    config: TrainProbeConfig,
    probe: Probe,
    responses: list[Response],
    features: Features,
    index: int,
    sides: np.ndarray,
    tried: list[dict[str, Any]],
    command: str,
    writer: ModelSource,
) -> dict[str, Any]:
    """Writes the report on the held-out responses; returns its numbers."""
    final = Fit(np.asarray(probe.params.weight), float(probe.params.bias), np.asarray(probe.params.token_bias))
    p = final.moved(-features.centre[index]).p(features.of(index), features.tokens)
    items = [segment for response in responses for segment in response.segments]

    def spread(values: Float[np.ndarray, " N"]) -> list[np.ndarray]:
        """By segment, with NaN where there is no label or the token is not held out."""
        out, start = [], 0
        values = np.where(sides == 2, values, np.nan)
        for item in items:
            known = item.classes != CONTEXT
            row = np.full(len(known), np.nan)
            row[known] = values[start : start + known.sum()]
            start += int(known.sum())
            out.append(row)
        return out

    tokens, said = judged_tokens(items, spread(p))
    baseline = None
    if config.baseline is not None:
        table = Unigram.load(Path(config.baseline), probe.tokenizer, threshold=0.5)
        baseline = judged_tokens(items, spread(np.asarray(table.params)[features.tokens]))[1]
    numbers = evaluate(tokens, said, probe.threshold, baseline)
    about = {
        "kind": "probe",
        "model": config.writer.model,
        "layer": f"{probe.layer} of 0 … {models.read_config(writer.folder).num_hidden_layers - 1}",
        "token biases": int(np.count_nonzero(np.asarray(probe.params.token_bias))),
        "fitted on": ", ".join(config.data.annotated),
        "command": command,
        "use it as": f"{{kind: probe, model: {config.output}}}",
        "layers": tried,
    }
    write_report(config.output, "Boundary predictor: probe", about, numbers)
    return numbers


def _save(
    probe: Probe,
    config: TrainProbeConfig,
    metrics: dict[str, Any],
    command: str,
    writer: ModelSource,
    model_config: models.DecoderConfig,
) -> None:
    kept = {
        name: metrics[name] for name in ("tokens", "style_tokens", "responses", "scores", "baseline") if name in metrics
    }
    probe.save(
        config.output,
        model_config,
        name=config.writer.model,
        weights=hash_folder(writer.folder),
        metrics=kept,
        command=command,
    )


if __name__ == "__main__":
    sys.exit(main())
