"""Training examples: the exact ids of synthesis and serving, whose each token is, every accepted row, every bad one."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy_jax.data.inputs import Reject
from tessy_jax.data.sources import RawRow
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import TextError
from tessy_jax.train.data.examples import PARTS, examples
from tests.kit import templates, vocab

ASK = {"role": "user", "content": "What is 2 + 2?"}
THOUGHT = [("student", "Okay, so"), ("teacher", " 2 + 2 is 4, naïve as it is: 四."), ("student", "\n\nWait, yes.")]
ANSWER = "It is 4."
CHATS = ("smollm2", "qwen3")


@pytest.fixture(scope="module", params=CHATS)
def chat(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def smollm2(demo_weights):
    return Chat.load(demo_weights / "smollm2-135m-instruct")


@pytest.fixture(scope="module")
def token_bytes(smollm2):
    return smollm2.tokenizer.token_bytes()


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return Chat.load(vocab.qwen3(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Chat.load(vocab.small_chatml(tmp_path_factory.mktemp("small")))


def record(thought=THOUGHT, answer=ANSWER, finish="stop", **changes):
    """A row of a run of ours."""
    spans, content = [], "<think>\n"
    for by, text in thought:
        span = {"by": by, "phase": "think", "start": len(content), "end": len(content) + len(text)}
        spans.append(span | {"n_tokens": 1, "dropped_tokens": 0})
        content += text
    content += "\n</think>\n\n"
    spans.append({"by": "student", "phase": "answer", "start": len(content), "end": len(content) + len(answer)})
    spans[-1] |= {"n_tokens": 1, "dropped_tokens": 0}
    row = {
        "id": "p1",
        "sample_index": 2,
        "messages": [ASK, {"role": "assistant", "content": content + answer}],
        "spans": spans,
        "n_tokens": {"student": 1, "teacher": 1, "answer": 1, "rolled_back": 0},
        "switches": 2,
        "finish": {"think": "end", "answer": finish},
        "seed": 0,
        "answer": "4",
    }
    return row | changes


def raw(value):
    return RawRow(Path("folder/in.jsonl"), 7, value, json.dumps(value))


def one(value, chat, **options):
    (found,) = examples(raw(value), chat, **options)
    return found


def reason(value, chat, **options):
    found = one(value, chat, **options)
    assert isinstance(found, Reject)
    assert (found.file, found.line) == ("in.jsonl", 7)
    return found.reason


def shown(example, chat):
    """Runs of tokens of one part, as text."""
    runs = []
    for token, part in zip(example.tokens.tolist(), example.parts.tolist(), strict=True):
        if runs and runs[-1][0] == PARTS[part]:
            runs[-1][1].append(token)
        else:
            runs.append((PARTS[part], [token]))
    return [(part, chat.reference.decode(tokens)) for part, tokens in runs]


# -- records -----------------------------------------------------------------------------------------------------------


def test_the_ids_of_a_record_are_those_of_synthesis(chat):
    found = one(record(), chat)
    trace = "".join(text for _, text in THOUGHT).encode()
    end = chat.tokenizer.control["<|im_end|>"]
    assert found.tokens.tolist() == chat.prompt_ids([ASK]) + chat.closed_ids(trace, ANSWER.encode()) + [end]
    assert (found.tokens.dtype, found.parts.dtype) == (np.int32, np.int8)
    assert (found.id, found.problem) == ("p1#2", ASK["content"])


def test_what_was_rolled_back_is_not_learned(chat):
    dropped = {"by": "teacher", "at": 12, "n_tokens": 2, "text": " wait</think>"}
    with_it, without = one(record(dropped_text=[dropped], word_scores=[[10, 12, 0.5]]), chat), one(record(), chat)
    assert with_it.tokens.tolist() == without.tokens.tolist()
    assert with_it.parts.tolist() == without.parts.tolist()
    assert reason(record(dropped_text=[{"by": "teacher"}]), chat).startswith("not a record: TypeError")
    assert reason(record(word_scores=[[10, 12]]), chat).startswith("not a record: TypeError")


def test_the_ids_of_a_record_are_those_of_transformers(chat):
    theirs = chat.reference.apply_chat_template(record()["messages"], return_dict=False)
    newline = chat.reference("\n")["input_ids"]
    assert one(record(), chat).tokens.tolist() + newline == theirs


def test_each_token_has_its_author(smollm2, qwen3):
    prompt = smollm2.reference.decode(smollm2.prompt_ids([ASK]))
    assert shown(one(record(), smollm2), smollm2) == [
        ("context", prompt),
        ("style", "Okay, so"),
        ("capability", " 2 + 2 is 4, naïve as it is: 四."),
        ("style", "\n\nWait, yes."),
        ("answer", "\n</think>\n\nIt is 4.<|im_end|>"),
    ]
    assert shown(one(record(), qwen3), qwen3)[1:] == [  # where a full stop and newlines are one token
        ("style", "Okay, so"),
        ("capability", " 2 + 2 is 4, naïve as it is: 四.\n\n"),
        ("style", "Wait, yes.\n"),
        ("answer", "</think>\n\nIt is 4.<|im_end|>"),
    ]


def test_a_token_belongs_to_the_part_of_its_first_byte(smollm2):
    thought = [("student", "So the ans"), ("teacher", "wer is"), ("student", " 4")]
    found = one(record(thought), smollm2)
    answer = smollm2.tokenizer.encode(b" answer")[0]
    assert len(answer) == 1
    assert PARTS[found.parts[found.tokens.tolist().index(answer[0], len(smollm2.prompt_ids([ASK])))]] == "style"
    assert shown(found, smollm2)[1:4] == [("style", "So the answer"), ("capability", " is"), ("style", " 4")]


@given(st.lists(st.tuples(st.sampled_from(["student", "teacher"]), st.text("ab .\n四é👍ก", min_size=1)), max_size=6))
@settings(max_examples=150, deadline=None)
def test_authors_of_any_text(smollm2, token_bytes, thought):
    trace = "".join(text for _, text in thought).encode()
    found = one(record(thought), smollm2)
    prompt = len(smollm2.prompt_ids([ASK]))
    assert (found.parts[:prompt] == 0).all()
    authors = [PARTS.index("style" if by == "student" else "capability") for by, text in thought for _ in text.encode()]
    authors += [PARTS.index("answer")] * len(b"\n</think>\n\n" + ANSWER.encode())
    sizes = [len(token_bytes[token]) for token in found.tokens[prompt:-1]]
    firsts = np.cumsum([0, *sizes[:-1]])
    assert sum(sizes) == len(trace) + len(b"\n</think>\n\n" + ANSWER.encode())
    assert found.parts[prompt:-1].tolist() == [authors[first] for first in firsts]
    assert found.parts[-1] == PARTS.index("answer")


def test_an_answer_that_was_cut_off_does_not_end_the_turn(chat):
    whole, cut = one(record(), chat), one(record(finish="length"), chat)
    assert cut.tokens.tolist() == whole.tokens.tolist()[:-1]
    assert cut.parts.tolist() == whole.parts.tolist()[:-1]


def test_the_markers_letters_in_a_trace_are_text(chat):
    found = one(record([("teacher", "It ends with </think>\n\nor so.")]), chat)
    (_, trace), (_, rest) = shown(found, chat)[1:]
    assert trace.rstrip() == "It ends with </think>\n\nor so."
    assert rest.lstrip() == "</think>\n\nIt is 4.<|im_end|>"
    assert np.isin(found.tokens, list(chat.end_ids)).sum() == len(chat.end_ids)


def test_a_system_message_comes_first(small):
    with_system = one(record(), small, system="Be brief.").tokens.tolist()
    prompt = small.prompt_ids([{"role": "system", "content": "Be brief."}, ASK])
    assert with_system[: len(prompt)] == prompt
    own = record(messages=[{"role": "system", "content": "Be long."}, *record()["messages"]])
    assert one(own, small, system="Be brief.").tokens.tolist() == one(own, small).tokens.tolist()


def test_spans_that_do_not_fit(small):
    row = record()
    row["spans"][1]["start"] += 1
    assert reason(row, small) == "messages[1]: span 17..47 should begin at 16 and end within 78"
    row["spans"].pop(1)
    assert reason(row, small) == "messages[1]: span 47..59 should begin at 16 and end within 78"
    del row["spans"][1:]
    assert reason(row, small) == (
        "messages[1]: has no '\\n</think>\\n\\n' where its thinking ends: give thinking as in the run that wrote it"
    )
    row["messages"][1]["content"] = "No thinking."
    assert reason(row, small) == (
        "messages[1]: does not begin with thinking.open, '<think>\\n': give thinking as in the run that wrote it"
    )
    assert reason(record(spans=[{"by": "student"}]), small).startswith("not a record: TypeError")


# -- foreign rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, {"role": "assistant", "content": ANSWER}]},
        {"dialogs": [ASK, {"role": "assistant", "content": ANSWER, "loss": True}]},
        {"conversations": [{"from": "human", "value": ASK["content"]}, {"from": "gpt", "value": ANSWER}]},
        {"prompt": ASK["content"], "response": ANSWER},
        {"prompt": [ASK], "completion": [{"role": "assistant", "content": ANSWER}]},
        {"prompt": [ASK], "content": ANSWER},
        {"prompt": [ASK, {"role": "assistant", "content": ANSWER}]},
        {"question": ASK["content"], "answer": ANSWER},
        {"messages": [ASK, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": "Thanks."}]},
    ],
)
def test_shapes(small, row):
    found = one({"id_ddm": "a"} | row, small)
    theirs = small.reference.apply_chat_template([ASK, {"role": "assistant", "content": ANSWER}], return_dict=False)
    assert found.tokens.tolist() == theirs[:-1]
    assert (found.id, found.problem) == ("a", ASK["content"])
    prompt = "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(found, small) == [("context", prompt), ("assistant", "It is 4.<|im_end|>")]


def test_rows_without_an_id_are_named_by_their_place(small):
    assert one({"prompt": "1 + 1?", "response": "2"}, small).id == "in.jsonl:7"


@pytest.mark.parametrize(
    "content",
    ["<think>\nX\n</think>\n\nY", "<think>\n\n\n  X</think>Y", "<think>X </think>\n Y", "\n <think>\nX\n\n</think> Y"],
)
def test_thinking_of_others_keeps_its_white_space(chat, content):
    found = one({"messages": [ASK, {"role": "assistant", "content": content}]}, chat)
    opening = chat.thinking.open if chat.thinking.open in content else "<think>"
    rest = content.split(opening, 1)[1]
    prompt = chat.prompt_ids([ASK])
    assert found.tokens[: len(prompt)].tolist() == prompt
    assert chat.reference.decode(found.tokens[len(prompt) :]) == rest + "<|im_end|>"
    assert found.parts.tolist() == [0] * len(prompt) + [PARTS.index("assistant")] * (len(found.tokens) - len(prompt))
    assert np.isin(found.tokens, list(chat.end_ids)).sum() == len(chat.end_ids)
    if content.startswith("<think>\nX\n</think>\n\n"):
        assert found.tokens[len(prompt) : -1].tolist() == chat.closed_ids(b"X", b"Y")


def test_an_answer_without_thinking_has_no_opening(small):
    row = {"messages": [ASK, {"role": "assistant", "content": ANSWER}]}
    plain = one(row, small).tokens.tolist()
    thinks = Chat.load(small.folder, template=templates.CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'"))
    assert thinks.prompt_ids([ASK]) == small.prompt_ids([ASK])
    assert one(row, thinks).tokens.tolist() == plain


def test_every_assistant_message_can_be_an_example(small):
    first, second = (
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "<think>\nX\n</think>\n\nY"},
    )
    other = {"role": "user", "content": "And now?"}
    row = {"id": "c", "messages": [ASK, first, other, second]}
    both = list(examples(raw(row), small, turns="all"))
    assert [found.id for found in both] == ["c@1", "c@3"]
    assert [found.problem for found in both] == [ASK["content"]] * 2
    assert both[0].tokens.tolist() == one({"messages": [ASK, first]}, small).tokens.tolist()
    last = one(row, small)
    assert both[1].tokens.tolist() == last.tokens.tolist()
    assert last.tokens.tolist()[: len(small.prompt_ids([ASK, first, other]))] == small.prompt_ids([ASK, first, other])
    first["loss"] = False
    assert [found.id for found in examples(raw(row), small, turns="all")] == ["c@3"]


def test_earlier_answers_of_a_record_are_of_unknown_author(small):
    row = record()
    row["messages"] = [ASK, {"role": "assistant", "content": "Two?"}, *row["messages"]]
    first, second = examples(raw(row), small, turns="all")
    assert {PARTS[part] for part in first.parts} == {"context", "assistant"}
    assert {PARTS[part] for part in second.parts} == {"context", "style", "capability", "answer"}


MISSING = "messages[1]: begins with <think> and has no </think>"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([1], "not a JSON object but a list"),
        ({"text": "x"}, "no conversation: expected a field messages, prompt, dialogs, question, conversations;"),
        (
            {"prompt": "x", "reply": "y"},
            "no answer to 'prompt': expected a field response, completion, content, answer;",
        ),
        ({"messages": [ASK]}, "no assistant message to learn"),
        ({"messages": []}, "no assistant message to learn"),
        ({"messages": 3}, "field 'messages' must be a string or a list of messages, not a number"),
        ({"messages": [ASK, {"role": "tool", "content": "y"}]}, "messages[1].role is 'tool', expected one of"),
        ({"messages": [ASK, {"role": "assistant", "content": " \n"}]}, "messages[1] is empty"),
        ({"messages": [ASK, {"role": "assistant", "content": "<think>\nX"}]}, MISSING),
        ({"messages": [ASK, {"role": "assistant", "content": "<think>\r\nX <think>"}]}, MISSING),
        (
            {"messages": [ASK, {"role": "assistant", "content": "X\n</think>\n\nY"}]},
            "messages[1]: has </think> and does not begin with <think>",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": "Y", "reasoning_content": "X"}]},
            "messages[1].reasoning_content would be lost: write all that is to be learned as content",
        ),
        (
            {"dialogs": [ASK, {"role": "assistant", "content": "y", "loss": False}]},
            "nothing to learn: 'loss' is false in its assistant messages",
        ),
        (
            {"dialogs": [ASK, {"role": "assistant", "content": "y", "loss": 0}]},
            "messages[1].loss must be true or false, not a number",
        ),
        ({"prompt": "x", "response": "\ud800"}, "'response.content' is not text: lone surrogate"),
    ],
)
def test_rows_that_cannot_be_used(small, row, why):
    assert reason(row, small).startswith(why)


def test_a_template_that_refuses_makes_a_reject(small):
    refusing = Chat.load(small.folder, template="{{ raise_exception('no!') }}")
    row = {"messages": [ASK, {"role": "assistant", "content": "y"}]}
    assert reason(row, refusing) == f"messages[1]: the chat template of {small.folder} refuses the messages: no!"


def test_the_token_that_ends_a_turn(small, tmp_path):
    assert small.end_of_turn == small.tokenizer.control["<|im_end|>"]
    gemma = Chat.load(vocab.sentencepiece(tmp_path / "gemma"))
    assert gemma.end_of_turn == gemma.tokenizer.control["<end_of_turn>"]  # not its eos_token, <eos>
    base = Chat.load(vocab.small_plain(tmp_path / "base"), template="{{ messages[0].content }}\n")
    assert base.end_of_turn == base.tokenizer.control["<|endoftext|>"]
    path = tmp_path / "base" / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(TextError, match=r"says which token ends an answer: name one as eos_token\."):
        _ = Chat.load(tmp_path / "base", template="{{ messages[0].content }}\n").end_of_turn


def test_whatever_a_template_or_tokenizer_raises_makes_a_reject(small, monkeypatch):
    row = {"messages": [ASK, {"role": "assistant", "content": "y"}]}
    failing = Chat.load(small.folder, template="{{ 1 // 0 }}")
    assert reason(row, failing).endswith("fails on the messages: ZeroDivisionError: integer division or modulo by zero")
    broken = Chat.load(small.folder)
    monkeypatch.setattr(broken.tokenizer, "encode", lambda data: [][len(data)])
    assert reason(row, broken) == "messages[1]: IndexError: list index out of range"
    with monkeypatch.context() as patch:
        patch.setattr("tessy_jax.train.data.examples.read_record", lambda value: value.no)
        assert reason(row, small) == "AttributeError: 'dict' object has no attribute 'no'"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "hello"}],
        [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "hello"}],
        [{"role": "assistant", "content": "hello"}, ASK],
    ],
)
def test_an_answer_to_nobody(small, messages):
    at = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    nobody = f"messages[{at}]: it answers nobody: no user message stands before it"
    assert reason({"messages": messages}, small) == nobody


def test_a_greeting_does_not_spoil_what_follows(small):
    greeting, answer = ({"role": "assistant", "content": text} for text in ("Hello!", ANSWER))
    found = list(examples(raw({"id": "a", "messages": [greeting, ASK, answer]}), small, turns="all"))
    assert [getattr(one, "reason", one.id) for one in found] == [
        "messages[0]: it answers nobody: no user message stands before it",
        "a@2",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "Two and two."},
        {"reasoning_content": "Two and two.", "id": "b"},
        {"thinking": ["Two and two."]},
        {"tools": [{"name": "add"}]},
        {"weight": 0.5},
        {"train": False},
        {"loss_mask": [0, 1]},
        {"context": "A passage."},
    ],
)
def test_fields_that_would_be_lost_are_refused(small, fields):
    for row in ({"prompt": "2+2?", "response": "4"}, {"messages": [ASK, {"role": "assistant", "content": "4"}]}):
        assert reason(row | fields, small).startswith(f"field '{next(iter(fields))}' ")


def test_fields_whose_text_is_learned_anyway(small):
    thought = "<think>\nTwo and two.\n</think>\n\n4"
    row = {"prompt": "Add: 2+2?", "response": thought, "reasoning": " Two and two.", "instruction": "Add: 2+2?"}
    bare = one({"prompt": "Add: 2+2?", "response": thought}, small)
    neutral = {"weight": 1, "train": True, "tools": "[]", "loss": "x"}
    assert one(row | neutral, small).tokens.tolist() == bare.tokens.tolist()


def test_rows_in_other_shapes(small):
    answer = {"role": "assistant", "content": ANSWER}
    plain = one({"messages": [{"role": "system", "content": "Be brief."}, ASK, answer]}, small).tokens.tolist()
    parts = [{"type": "text", "text": ANSWER[:3]}, {"type": "text", "text": ANSWER[3:]}]
    for row in (
        {"system": "Be brief.", "conversations": json.dumps([{"from": "human", "value": ASK["content"]}, answer])},
        {"system_prompt": "Be brief.", "prompt": ASK["content"], "completion": json.dumps([answer])},
        {"system": "Be brief.", "messages": [ASK, answer | {"content": parts}]},
        {"system": "Be brief.", "question": ASK["content"], "answer": ANSWER, "messages": None},
    ):
        assert one(row, small, system="Be long.").tokens.tolist() == plain
    assert reason({"messages": [], "prompt": "a", "response": "b"}, small) == (
        "field 'messages' is empty, and 'prompt' is not read beside it: remove the empty field"
    )


@pytest.mark.parametrize("flags", [{"train": False}, {"weight": 0}, {"train_on_turn": False}, {"loss_scale": 0.0}])
def test_messages_that_are_not_to_be_learned(small, flags):
    first, second = ({"role": "assistant", "content": text} for text in ("One.", "Two."))
    row = {"id": "c", "messages": [ASK, first | flags, ASK, second]}
    assert [found.id for found in examples(raw(row), small, turns="all")] == ["c@3"]
    name, value = next(iter(flags.items()))
    said = "false" if value is False else "0"
    nothing = f"nothing to learn: '{name}' is {said} in its assistant messages"
    assert reason({"messages": [ASK, second | flags]}, small) == nothing


@pytest.mark.parametrize(
    ("index", "flags", "why"),
    [
        (1, {"weight": 0.5}, "messages[1].weight is 0.5: only 1 (learned) and 0 (not) are known; remove it"),
        (1, {"train": "yes"}, "messages[1].train must be true or false, not a string"),
        (0, {"train": True}, "messages[0].train is true in a user message: only the assistant's are learned"),
        (1, {"train_detail": [{"begin_offset": 0}]}, "messages[1]: field 'train_detail' is not read: a message is"),
    ],
)
def test_flags_that_cannot_be_followed(small, index, flags, why):
    messages = [ASK, {"role": "assistant", "content": "4"}]
    messages[index] = messages[index] | flags
    assert reason({"messages": messages}, small).startswith(why)
