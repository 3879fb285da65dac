"""The configuration: defaults, overrides, paths, and the exact words for every mistake."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tessy_jax.config.boundary_predictors import UnigramPredictor
from tessy_jax.config.schema import describe, to_yaml
from tessy_jax.config.synthesize import PaperCooperation, ReleasedCodeCooperation, SynthesisConfig, load_config
from tessy_jax.errors import ConfigError
from tests.kit import ROOT

MINIMAL = """
student: {model: org/student}
teacher: {model: org/teacher, sampling: {temperature: 0.7}}
predictors:
  student: {kind: unigram, table: table.json}
  teacher: {kind: checkpoint, model: org/predictor}
input: problems.jsonl
output: runs/a
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(MINIMAL)
    return Path("x.yaml")


def test_defaults(path):
    config = load_config(path, [])
    assert config.student.thinking.marker is None  # as the model's control tokens say
    assert config.teacher.sampling.temperature == 0.7
    assert config.predictors.student == UnigramPredictor(kind="unigram", table="table.json")
    assert (config.predictors.teacher.shift, config.predictors.teacher.block) == (1, 128)
    assert config.cooperation == PaperCooperation(preset="paper", k=20)
    assert config.engine.prompt_buckets[:3] == (64, 128, 256)
    assert config.engine.prompt_buckets[-1] <= config.engine.context
    assert config.output == Path("runs/a")
    assert (config.columns, config.limit, config.samples) == (None, None, 1)
    with pytest.raises(ValidationError):
        config.seed = 1


def test_overrides(path):
    config = load_config(
        path,
        [
            "engine.batch=4",
            "engine.batch=16",
            "engine.prompt_buckets=[100, 200]",
            "teacher.sampling.temperature=0",
            "cooperation.preset=released_code",
            "cooperation.loop=null",
            "predictors.teacher={kind: unigram, table: t, threshold: 0.25}",
            "columns.prompt=q",
            "student.prompt.system=a=b",
        ],
    )
    assert (config.engine.batch, config.engine.prompt_buckets) == (16, (100, 200))
    assert config.teacher.sampling.temperature == 0.0
    assert isinstance(config.cooperation, ReleasedCodeCooperation)
    assert (config.cooperation.loop, config.cooperation.k_teacher) == (None, 10)
    assert config.columns.prompt == "q"
    assert config.student.prompt.system == "a=b"


MISTAKES = [
    ("studnet.model=x", "unknown key 'studnet.model' in override 'studnet.model=x'; did you mean 'student.model'?"),
    ("engine.bacth=8", "unknown key 'engine.bacth' in override 'engine.bacth=8'; did you mean 'engine.batch'?"),
    (
        "predictors.teacher.treshold=1",
        "unknown key 'predictors.teacher.treshold' in override 'predictors.teacher.treshold=1'; "
        "did you mean 'predictors.teacher.threshold'?",
    ),
    (
        "mesh.pipeline=2",
        "unknown key 'mesh.pipeline' in override 'mesh.pipeline=2'; known keys: mesh.data, mesh.fsdp, mesh.tensor, "
        "mesh.expert",
    ),
    (
        "zzz=1",
        "unknown key 'zzz' in override 'zzz=1'; known keys: student, teacher, predictors, cooperation, engine, mesh, "
        "input, columns, output, seed, samples, limit, method, schedule, keep_dropped, keep_scores",
    ),
    (
        "predictors.student.shift=0",
        "unknown key 'predictors.student.shift' in override 'predictors.student.shift=0'; it belongs to another "
        "variant (kind: checkpoint)",
    ),
    ("engine.batch=eight", "'engine.batch' in override 'engine.batch=eight' should be a valid integer, got 'eight'"),
    ("engine.batch=0", "'engine.batch' in override 'engine.batch=0' should be greater than 0, got 0"),
    ("seed=true", "'seed' in override 'seed=true' should be a valid integer, got True"),
    ("seed=1.5", "'seed' in override 'seed=1.5' should be a valid integer, got 1.5"),
    ("engine=3", "'engine' in override 'engine=3' should be a section with keys of its own, got 3"),
    ("seed.a=3", "'seed' in override 'seed.a=3' should be a valid integer, got {'a': 3}"),
    ("output=3", "'output' in override 'output=3' should be a path, got 3"),
    ("student.model=", "'student.model' in override 'student.model=' should be a valid string, got None"),
    (
        "engine.dtype=float16",
        "'engine.dtype' in override 'engine.dtype=float16' should be 'float32' or 'bfloat16', got 'float16'",
    ),
    (
        "teacher.sampling.top_p=0",
        "'teacher.sampling.top_p' in override 'teacher.sampling.top_p=0' should be greater than 0, got 0",
    ),
    (
        "teacher.sampling.min_p=.nan",
        "'teacher.sampling.min_p' in override 'teacher.sampling.min_p=.nan' should be a finite number, got nan",
    ),
    (
        "cooperation.preset=papper",
        "'cooperation.preset' in override 'cooperation.preset=papper' should be one of 'paper', 'released_code', "
        "got 'papper'",
    ),
    (
        "cooperation.k=3",
        "missing key 'cooperation.preset' in x.yaml: add it there, or give cooperation.preset=... as an override",
    ),
    (
        "engine.prompt_buckets=[128,64]",
        "'engine' in override 'engine.prompt_buckets=[128,64]' has wrong buckets: prompt_buckets must ascend and end "
        "at context (40960) or below",
    ),
    (
        "engine.cache_tokens=100",
        "'engine' in override 'engine.cache_tokens=100' has cache_tokens 100: a single row may grow to context 40960",
    ),
    (
        "engine.prompt_buckets=3",
        "'engine.prompt_buckets' in override 'engine.prompt_buckets=3' should be a valid list, got 3",
    ),
    ("schedule=strem", "'schedule' in override 'schedule=strem' should be 'stream' or 'rollback', got 'strem'"),
    ("--dry", "override '--dry' is not of the form key=value, for example engine.batch=8"),
    ("[engine.batch=8", "override '[engine.batch=8' is not of the form key=value, for example engine.batch=8"),
    ("=3", "override '=3' is not of the form key=value, for example engine.batch=8"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_mistakes_in_overrides(path, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert str(error.value) == message


def test_what_the_released_code_cannot_do(path):
    released = ["cooperation.preset=released_code"]
    for key, why in (("schedule=stream", "judges whole turns"), ("keep_scores=true", "judges no words")):
        with pytest.raises(ConfigError, match=f"the preset released_code {why}; leave it out"):
            load_config(path, [*released, key])
    assert load_config(path, [*released, "keep_dropped=true"]).keep_dropped


def test_mistakes_in_the_file(path):
    path.write_text(MINIMAL.replace("student: {model", "studnet: {model"))
    with pytest.raises(ConfigError) as error:
        load_config(path, ["engine.batch=0"])
    assert str(error.value).splitlines() == [
        "'engine.batch' in override 'engine.batch=0' should be greater than 0, got 0",
        "unknown key 'studnet.model' in x.yaml; did you mean 'student.model'?",
    ]
    path.write_text("input: a\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    missing = ["student", "teacher", "predictors", "output"]
    assert str(error.value).splitlines() == [
        f"missing key '{key}' in x.yaml: add it there, or give {key}=... as an override" for key in missing
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", "cannot read x.yaml: while parsing a flow sequence"),
        (b"seed: 1\nseed: 2", "found duplicate key seed"),
        (b"- 1\n", "x.yaml must hold keys with values, not a list"),
        (b"3", "cannot read x.yaml: Invalid loaded object type: int"),
        (b"a: \xff", "cannot read x.yaml|x.yaml is not UTF-8 text"),
        (b"", "missing key 'student' in x.yaml"),
    ],
)
def test_unreadable_files(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*none\.yaml"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load_config(tmp_path)


def test_paths_from_a_checkout_and_elsewhere(tmp_path, monkeypatch):
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for folder in (checkout / "configs", checkout / ".cache/student", elsewhere):
        folder.mkdir(parents=True)
    (checkout / "configs/problems.jsonl").write_text("")
    text = MINIMAL.replace("org/student", ".cache/student").replace("input: ", "input: configs/")
    (checkout / "configs/demo.yaml").write_text(text)

    monkeypatch.chdir(checkout)
    config = load_config("configs/demo.yaml")
    assert config == load_config(Path("configs/demo.yaml"))
    assert (config.student.model, config.input) == (".cache/student", "configs/problems.jsonl")

    monkeypatch.chdir(elsewhere)
    config = load_config(Path("../checkout/configs/demo.yaml"))
    assert Path(config.student.model).samefile(checkout / ".cache/student")
    assert Path(config.input).samefile(checkout / "configs/problems.jsonl")
    assert config.teacher.model == "org/teacher"
    assert config.output == Path("runs/a")

    (elsewhere / "near.yaml").write_text(MINIMAL)
    (elsewhere / "problems.jsonl").write_text("")
    monkeypatch.chdir(checkout)
    assert Path(load_config(elsewhere / "near.yaml").input).samefile(elsewhere / "problems.jsonl")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "${" not in text)


@settings(max_examples=50, deadline=None)
@example(system="1e3", opening="0E0", temperature=0.0, seed=0)  # numbers for OmegaConf, and not for PyYAML
@example(system=".5E+1", opening="1:30.5", temperature=1.0, seed=1)
@given(system=st.none() | texts, opening=texts, temperature=st.floats(0, 1e6), seed=st.integers(0, 2**32 - 1))
def test_resolved_copy_reads_back_the_same(tmp_path_factory, system, opening, temperature, seed):
    folder = tmp_path_factory.mktemp("config")
    (folder / "x.yaml").write_text(MINIMAL)
    config = load_config(folder / "x.yaml", ["cooperation.preset=paper"])
    student = config.student.model_copy(
        update={
            "prompt": config.student.prompt.model_copy(update={"system": system}),
            "thinking": config.student.thinking.model_copy(update={"open": opening}),
            "sampling": config.student.sampling.model_copy(update={"temperature": temperature}),
        }
    )
    config = config.model_copy(update={"student": student, "seed": seed})
    (folder / "resolved.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(folder / "resolved.yaml") == config


def test_description_covers_every_key():
    lines = describe(SynthesisConfig).splitlines()
    assert any(line.startswith("student.sampling.top_k") for line in lines)
    assert any(line.startswith("cooperation.k_teacher (preset: released_code)") and "  10 " in line for line in lines)
    assert all(len(line.split("  ")[-1].split()) >= 2 for line in lines), "a key without a description"


LATEX = r"Put it in ${\boxed{}}$, not in ${oc.env:HOME} or $x$."


def test_dollars_and_braces_are_text(tmp_path):
    file = tmp_path / "demo.yaml"
    values = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    values["student"]["prompt"] = {"system": LATEX, "options": {LATEX: [LATEX]}}
    file.write_text(yaml.safe_dump(values))
    config = load_config(file, [f"teacher.prompt={{system: '{LATEX}'}}", f"teacher.prompt.template={LATEX}"])
    assert (config.student.prompt.system, config.student.prompt.options) == (LATEX, {LATEX: [LATEX]})
    assert (config.teacher.prompt.system, config.teacher.prompt.template) == (LATEX, LATEX)
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    with pytest.raises(ConfigError, match=r"override 'seed=\$\{' should be a valid integer, got '\$\{'"):
        load_config(file, ["seed=${"])


YAML = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(
            ["a", "seed", "engine", ":", ": ", "\n", "\n  ", "- ", "{", "}", "[", "]", "'", '"', "&a ", "*a", "!!int ",
             "!!timestamp ", "!!binary ", "!!set ", "? ", "|", "1", "2020-01-01", "${", "null", "<<", "# ", "\t", ", "]
        ),
        max_size=14,
    ).map("".join),
)  # fmt: skip


@settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=YAML, override=YAML)
def test_any_file_and_override_are_a_configuration_or_an_error_that_names_them(tmp_path, text, override):
    file = tmp_path / "any.yaml"
    file.write_text(text, newline="")
    for overrides in ([], [override]):
        with pytest.raises(ConfigError, match=r"any\.yaml|override"):  # keys are missing in any of them
            load_config(file, overrides)
