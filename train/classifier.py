"""The predictor to train, from a configuration: its tokenizer first (cheap, and can be wrong), then what trains it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from rich.console import Console

from tessy_jax import models
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.console.messages import tell
from tessy_jax.data.hashing import hash_file, hash_folder
from tessy_jax.data.jsonl import replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.data.run_folder import numbered
from tessy_jax.data.sources import data_path, files
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.predictors.scores import best_threshold, evaluate
from tessy_jax.predictors.unigram import Unigram
from tessy_jax.storage.copies import local
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.data.labels import LABELS
from tessy_jax.train.data.predictor_data import PredictorData
from tessy_jax.train.learner import Learner
from tessy_jax.train.loss import Objective, token_class
from tessy_jax.train.metrics import Sink
from tessy_jax.train.patience import Patience
from tessy_jax.train.predictor_eval import PredictorReporter, predict, predicted_tokens
from tessy_jax.train.predictor_report import write_report
from tessy_jax.train.step import TrainState


@dataclass(frozen=True)
class Classifier(Learner[TrainPredictorConfig, PredictorData]):
    """A token classifier that learns to tell style from capability.

    Attributes:
        tokenizer: its own.
        data: what it is trained on. There is little of it, so it is read when the classifier is opened.
    """

    name = "predictor"
    manifest = "tessy_jax train_predictor 1"
    written = (
        *("checkpoints", "tensorboard", "export", "metrics.jsonl", "rejects.jsonl", "run.log"),
        *("curves.png", "report.html", "report.json", "config.yaml"),
    )
    rejects_file = "rejects.jsonl"
    memory_advice = "Raise accumulate or mesh.fsdp, set compute.remat=full, or lower data.length"
    exports_best = True

    tokenizer: ContentTokenizer
    data: PredictorData

    @classmethod
    def open(cls, config: TrainPredictorConfig) -> "Classifier":
        """Reads the tokenizer and the headers of the weights, then the segments.

        Raises:
            ConfigError: the model or a source of data is not there, or the rows are longer than the model reads.
            TextError, WeightsError, models.ModelConfigError, InputError: what is there cannot be used.
        """
        for source in config.data.train:
            if not local(source).expanduser().exists():
                raise ConfigError(f"data.train: there is no file or folder '{source}'")
        if config.baseline is not None and not local(config.baseline).expanduser().is_file():
            raise ConfigError(f"baseline: there is no file '{config.baseline}'")
        folder = model_folder(config.model, "model")
        tokenizer = ContentTokenizer.load(folder)
        model = models.check_classifier(folder, LABELS)
        tokenizer.check_fits(model.vocab_size)
        if config.data.length > model.max_position_embeddings:
            raise ConfigError(
                f"data.length: {folder} reads {model.max_position_embeddings} tokens at most, not {config.data.length}"
            )
        return cls(config, folder, model, tokenizer, PredictorData.open(config, tokenizer))

    def identity(self) -> dict[str, Any]:
        config = self.config
        kept = {"shift", "class_weights", "batch", "epochs", "max_steps", "patience", "optimizer", "seed"}
        values = config.model_dump(mode="json", include=kept)
        sources = [file for source in config.data.train for file in files(data_path(local(source)))]
        hashes = {f"{n}/{file.name}": hash_file(file) for n, file in enumerate(sources)}
        return values | {
            **numbered(self.rules),
            "model": hash_folder(self.folder),
            "data": {"length": config.data.length, "held_out": config.data.held_out, "files": hashes},
            "every": config.checkpoint.every if config.patience else None,  # says when patience is tried
            "dtype": config.compute.dtype,
        }

    def read(self, console: Console) -> PredictorData:
        rejects = "".join(dump_line(reject.to_row()) + "\n" for reject in self.data.every.rejects)
        replace_file(self.path / self.rejects_file, rejects)
        return self.data

    @contextmanager
    def preview(self) -> Iterator[PredictorData]:
        yield self.data

    def load_model(self, mesh: Mesh | None) -> models.Model:
        key = jax.random.key(self.config.seed)
        return models.load_classifier(self.folder, LABELS, key, mesh=mesh, rules=models.TRAINING)

    @property
    def objective(self) -> Objective:
        return token_class

    @property
    def accumulate(self) -> int:
        return self.config.accumulate

    @property
    def keep_best(self) -> int:
        return max(1, self.config.checkpoint.best)  # it is exported

    def patience(self, step: int) -> Patience:
        return Patience.resumed(self.config.patience, self.path / "metrics.jsonl", step)

    def reporter(self, sinks: list[Sink], patience: Patience, **options: Any) -> PredictorReporter:
        return PredictorReporter(sinks, patience=patience, **options)

    def already_done(self, steps: int) -> str | None:
        if not (self.path / "export").is_dir() or not (self.path / "report.html").is_file():
            return None
        return f"the predictor is in {self.config.output}/export, its report is {self.config.output}/report.html"

    def finish(self, state: TrainState, data: PredictorData, mesh: Mesh | None, early: bool, console: Console) -> None:
        """Exports the predictor, and reports on what was exported."""
        config, output, step = self.config, self.config.output, int(state.step)
        because = " (F1 no longer rose)" if early else ""
        tell(console, f"trained{because}; the best F1 is that of step {step} of {data.train.plan.steps}")
        folder = self.export(state, mesh, console)

        model = models.load(folder, mesh=mesh, rules=models.TRAINING, dtype=config.compute.dtype)
        p = predict(model, data.held_out, mesh, config.compute.attention)
        found = predicted_tokens(data.held_out.corpus.items, p)
        numbers = evaluate(found.tokens, found.p, config.threshold, self._baseline(data, p))
        about = {
            "kind": "checkpoint",
            "model": str(self.folder),
            "architecture": self.model.architecture,
            "shift": config.shift,
            "trained on": ", ".join(config.data.train),
            "step": step,
            "command": "python -m tessy_jax.train_predictor config.yaml",
            "use it as": "{"
            f"kind: checkpoint, model: {output}/export, threshold: {config.threshold}, shift: {config.shift}"
            "}",
            "threshold with the best F1": best_threshold(found.tokens.style, found.p),
        }
        write_report(self.path, "Boundary predictor: token classifier", about, numbers)
        f1 = numbers["scores"]["style"]["f1"]
        interval = f"{f1['low']:.3f} … {f1['high']:.3f}"
        tell(console, f"F1 of style {f1['value']:.3f} ({interval}); report: {output}/report.html")

    def _baseline(self, data: PredictorData, p: Sequence[Float[np.ndarray, " T"]]) -> Float[np.ndarray, " N"] | None:
        """What the word list says of the tokens for which the predictor has said `p`; None where there is no list."""
        if self.config.baseline is None:
            return None
        table = np.asarray(Unigram.load(local(self.config.baseline), self.tokenizer, threshold=0.5).params)
        items = data.held_out.corpus.items
        listed = [np.where(np.isnan(ours), np.nan, table[item.tokens]) for item, ours in zip(items, p, strict=True)]
        return predicted_tokens(items, listed).p
