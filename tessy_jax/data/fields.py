"""The fields of input rows and of their messages: one table of names, and what becomes of each.

A field is used, passes through to the record, or is refused with what to do about it; docs/inputs.md shows the same
table. A field that says nothing (null, empty) is never refused, nor is one whose text stands in the messages anyway.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tessy_jax.data.records import Message
from tessy_jax.data.sources import BadRow

Purpose = Literal["prompts", "training"]
"""What rows are read for: their prompts, or the answers to learn."""

USED, PASSES = "used", "passes through"

CONVERSATION_FIELDS = ("messages", "dialogs", "conversations")
"""A whole conversation, its answer included; of several fields the first that is there counts."""

PROMPT_FIELDS = ("messages", "prompt", "dialogs", "question", "conversations")
"""The prompt, in a conversation or for itself."""

RESPONSE_FIELDS = ("response", "completion", "content", "answer")
"""The answer to a prompt that stands for itself."""

SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
"""A system message for the row, put before its messages."""

TRAIN_FLAGS = ("loss", "train", "training", "train_on_turn", "weight", "loss_scale")
"""Whether a message is learned: true or false, or 1 or 0."""

_REASONING = (
    *("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "think_text", "rationale", "cot"),
    *("chain_of_thought", "deepseek_reasoning", "r1_reasoning", "reasoning_trace", "thinking_trajectories"),
)
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_LOST = "would be lost: write all that is to be learned as content"
_REASONING_LOST = _LOST + " (<think>, thinking, </think>, answer), or rename the field if it is not thinking"
_TEXT_ONLY = "is not read: the models here read text only; remove it, or leave the row out"
_NO_TOOLS = "is not given to the chat template: write the tools into the system message (`system`), or remove the field"
_PART_OF_PROMPT = (
    "may belong to the prompt, and is not read: write it into the prompt or into `system`, "
    "choose the prompt by columns.prompt, or rename the field if it is neither"
)


@dataclass(frozen=True)
class Field:
    """Names that mean the same, and what becomes of them.

    Attributes:
        names: of the field.
        meaning: what it holds.
        prompts, training: USED, PASSES, or else a refusal: what stands after "field 'x'" in its reason.
        is_text: what it says may also stand in the messages; then nothing is lost.
    """

    names: tuple[str, ...]
    meaning: str
    prompts: str = PASSES
    training: str = PASSES
    is_text: bool = False

    def fate(self, purpose: Purpose) -> str:
        """USED, PASSES or the refusal."""
        return self.prompts if purpose == "prompts" else self.training


ROW_FIELDS = (
    Field(("id", "id_ddm"), "the row's name", USED, USED),
    Field(PROMPT_FIELDS, "the conversation or the prompt; the first that is there", USED, USED),
    Field(RESPONSE_FIELDS, "the answer to a prompt; the first that is there", PASSES, USED),
    Field(SYSTEM_FIELDS, "the system message", USED, USED),
    Field(_REASONING, "thinking in a field of its own", PASSES, _REASONING_LOST, is_text=True),
    Field(("tools", "functions", "available_tools"), "definitions of tools", _NO_TOOLS, _NO_TOOLS, is_text=True),
    Field(_MEDIA, "images, videos, sound", _TEXT_ONLY, _TEXT_ONLY),
    Field(
        ("history",),
        "earlier turns",
        *(2 * ("is not read: write earlier turns and the prompt as one list of messages",)),
        is_text=True,
    ),
    Field(
        ("instruction", "instructions", "input", "query", "context", "passage", "choices", "options"),
        "a part of the prompt, where its text is not in the prompt already",
        *(2 * (_PART_OF_PROMPT,)),
        is_text=True,
    ),
    Field(
        ("chat_template_kwargs", "enable_thinking", "reasoning_effort", "documents"),
        "variables of the chat template",
        *(2 * ("is not read per row: give variables of the template as prompt.options, and remove the field",)),
    ),
    Field(
        (*TRAIN_FLAGS, "sample_weight"),
        "weight of the row: 1 or true is the only one",
        PASSES,
        "is not read: rows have no weights; leave out rows that are not to be learned, and remove the field",
    ),
    Field(
        ("loss_mask", "completion_mask", "assistant_masks", "labels"),
        "weights of tokens",
        PASSES,
        "is not read: say what is learned by messages (`loss`: true or false), and remove the field",
    ),
)
"""Fields of a row that mean something."""

MESSAGE_FIELDS = (
    Field(("role", "content", "from", "value"), "who says what", USED, USED),
    Field(TRAIN_FLAGS, "whether the message is learned", PASSES, USED),
    Field(
        ("train_detail", "training_detail", "loss_mask", "mask"),
        "which parts of a message are learned",
        PASSES,
        "is not read: a message is learned as a whole or (`loss`: false) not at all; remove the field",
    ),
    Field(
        ("reasoning_content", "reasoning", "thinking", "tool_calls"),
        "given to the chat template; refused in a message to be learned",
        USED,
        USED,
    ),
    Field(("name", "tool_call_id"), "given to the chat template", USED, USED),
    Field(
        ("function_call",),
        "a call as OpenAI wrote it before tool_calls",
        *(2 * ("is read by no chat template: write it as tool_calls, or into the content",)),
    ),
    Field(_MEDIA, "images, videos, sound", _TEXT_ONLY, _TEXT_ONLY),
)
"""Fields of a message that mean something."""

_METADATA = """
    id uid uuid guid idx index key hash md5 number no row line file path url link doi source sources origin dataset
    datasets data_source subset config split category categories subcategory class domain domains subdomain subject
    subjects topic topics field area tag tags keywords type kind task tasks task_type problem_type question_type
    answer_type skill skills grade level levels difficulty difficulty_level rating score scores quality reward rewards
    pass_rate solve_rate accuracy correct correctness is_correct verified verification verifier language lang locale
    license licence author authors annotator annotators user username editor contributor year month day date time
    timestamp created created_at updated_at version revision model models model_name generator engine provider
    temperature top_p top_k seed tokens token_count num_tokens n_tokens length len turns num_turns usage cost latency
    meta metadata extra extra_info info misc other others notes note comment comments title name
    answers final_answer short_answer gold gold_answer golden_answer golden_answers target targets label ground_truth
    groundtruth ground_truth_solution reference references reference_answer reference_solution reference_solutions
    expected_answer expected_output solution solutions canonical_solution output outputs result results generation
    generations completions responses samples problem test tests test_list test_case test_cases unit_tests public_tests
    private_tests public_test_cases private_test_cases input_output io entry_point explanation reward_model
    ability finish_reason stop_reason logprobs embedding cluster duplicates sample_index spans switches finish
    dropped_turns segment offset annotator truncated pred_result
"""
METADATA = frozenset(_METADATA.split())
"""Names of fields that only say something about the row: they pass through without a word."""

_METADATA_ENDINGS = re.compile(
    r".*_(id|ids|idx|index|hash|url|source|name|type|count|len|length|score|scores|tokens|at|time|date|version|lang|"
    r"language|level|rate|tag|tags|model|answer|answers|meta|metadata|info)"
)

_BY_NAME: Mapping[str, Mapping[str, Field]] = {
    "row": {name: one for one in ROW_FIELDS for name in one.names},
    "message": {name: one for one in MESSAGE_FIELDS for name in one.names},
}


@dataclass
class FieldCounts:
    """Fields that are neither used nor known to be metadata, and in how many rows each was seen.

    Attributes:
        rows: by name; a field of messages is "messages.name".
    """

    rows: Counter[str] = field(default_factory=Counter)

    def check(
        self, value: Mapping[str, Any], messages: Sequence[Message], purpose: Purpose, skip: Iterable[str | None] = ()
    ) -> None:
        """Counts the unknown fields of a row and of its messages.

        Args:
            value: the row.
            messages: those of its messages that are read.
            purpose: what the row is read for.
            skip: names of fields that are in use under another name.

        Raises:
            BadRow: a field means something and would be ignored.
        """
        said = "\n".join(message["content"] for message in messages)
        rest = {name: inner for name, inner in value.items() if name not in set(skip)}
        for refusal in _refusals("row", rest, purpose, said):
            raise BadRow(f"field {refusal}")
        for index, message in enumerate(messages):
            for refusal in _refusals("message", message, purpose, said):
                raise BadRow(f"messages[{index}]: field {refusal}")
        named = {f"messages.{name}" for message in messages for name in _unknown("message", message)}
        self.rows.update({*_unknown("row", rest), *named})

    def __str__(self) -> str:
        """The names in order: messages.bar (1 row), foo (3 rows)."""
        return ", ".join(f"{name} ({count} row{'s' * (count > 1)})" for name, count in sorted(self.rows.items()))


def _refusals(of: Literal["row", "message"], values: Mapping[str, Any], purpose: Purpose, said: str) -> Iterator[str]:
    """Why the row cannot be used, for each field that would be lost: "'tools' is not given to …".

    Args:
        of: whose fields these are.
        values: the fields, without those that are in use under another name.
        said: the text of the row's messages: what stands there is not lost.
    """
    for name, value in values.items():
        found = _BY_NAME[of].get(name)
        if found is None or found.fate(purpose) in (USED, PASSES) or _says_nothing(value):
            continue
        if name in (*TRAIN_FLAGS, "sample_weight") and (value == 1 or isinstance(value, str)):
            continue
        if name == "input" and isinstance(value, dict):  # our own records keep an input row's fields there
            continue
        if not (found.is_text and all(text.strip() in said for text in _texts(value))):
            yield f"'{name}' {found.fate(purpose)}"


def _unknown(of: Literal["row", "message"], names: Mapping[str, Any]) -> list[str]:
    """The names that are neither in the table nor known to be metadata."""
    known = _BY_NAME[of]
    return [
        name
        for name, value in names.items()
        if name not in known
        and not (name.lower().strip("_") in METADATA or _METADATA_ENDINGS.fullmatch(name.lower()))
        and not _says_nothing(value)
    ]


def _says_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null", "None")
    return value is None or (isinstance(value, list | dict) and not value)


def _texts(value: Any) -> Iterator[str]:
    """The strings and numbers in a value, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif value is not None:
        yield str(value)
