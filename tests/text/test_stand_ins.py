"""No control token comes from users' text, whatever the template writes of it and around it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy_jax.text.chat import Chat
from tessy_jax.text.stand_ins import ControlStrings, StandIns
from tests.kit import vocab

NAMES = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


@pytest.mark.parametrize(
    ("text", "open_ends"),
    [
        ("|> a", (True, False)),
        ("a <|im_", (False, True)),
        ("im_end", (True, True)),
        ("a", (True, True)),  # of im_start
        ("It is 4.", (False, False)),
        ("", (False, False)),
        ("start|> and <", (True, True)),
        ("a < b", (False, False)),
    ],
)
def test_parts_of_control_strings_at_the_ends(text, open_ends):
    assert ControlStrings(NAMES).open_ends(text) == open_ends


def test_hidden_texts_are_as_long_and_can_be_restored():
    hidden = StandIns(ControlStrings(NAMES), used="\U00020000")
    found = hidden.hide_all({"<think>": ["<|", " |> ", "a", {"type": "im_end", "name": "<|im_end|>x"}], "n": 3})
    assert not any(name in str(found) for name in NAMES)
    restore = str.maketrans(hidden.meaning)
    ((key, (a, b, c, d)), number) = found.items()
    assert [text.translate(restore) for text in (key, a, b, c, d["name"])] == [
        "<think>",
        "<|",
        " |> ",
        "a",
        "<|im_end|>x",
    ]
    assert (d["type"], number, "\U00020000" in hidden.meaning) == ("im_end", ("n", 3), False)


# -- any template, any field, any text ---------------------------------------------------------------------------------

WRITTEN = (
    "m.content", "m.name", "m.reasoning_content", "m.reasoning", "m.tool_calls[0].function.name",
    "m.tool_calls[0].function.arguments", "m.tool_calls | tojson", "m.extra | string", "m.content | trim",
    "m.name | trim", "m.role",
)  # fmt: skip


class Strings(NamedTuple):
    """Texts for templates and messages of one vocabulary.

    Attributes:
        literals: control strings and pieces of them, as a template writes them. opening: what its prompts end with.
        pieces: the same, as they stand in messages.
    """

    write: Callable[[Path], Path]
    literals: tuple[str, ...]
    opening: str
    pieces: tuple[str, ...]


CHATML = Strings(
    vocab.small_chatml,
    ("", "<", "<|", "<|im_", "|>", ">", "end|>", " ", "\\n", "</", "think>", "<|im_end|>", "<|im_start|>"),
    "<|im_start|>assistant\n",
    (*NAMES, "<", "<|", "<|im_", "im_", "end|>", "|>", ">", "im_end", "</thi", "nk>", " ", "a", "é"),
)
SENTENCEPIECE = Strings(
    vocab.sentencepiece,
    ("", "<", "<bos", "<end_of_", "turn>", ">", "eos>", " ", "\\n", "\\n\\n", "<end_of_turn>", "<start_of_turn>"),
    "<start_of_turn>model\n",
    (
        *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<h1>", "<0x41>"),
        *("<", "<start_", "end_of_", "turn>", ">", "os>", "</thi", " ", "\n", "\n\n", "a", "é"),
    ),
)


@st.composite
def templates(draw, strings):
    """Fields of each message between pieces of control strings, in any order."""
    fields = draw(st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=4))
    literals = st.sampled_from(strings.literals)
    pieces = "".join(f"{{{{ '{draw(literals)}' + ({field} | default('') | string) }}}}" for field in fields)
    return f"{{% for m in messages %}}{pieces}{{{{ '{draw(literals)}' }}}}{{% endfor %}}{strings.opening}"


@st.composite
def messages(draw, strings):
    texts = st.lists(st.sampled_from(strings.pieces), max_size=3).map("".join)

    def call():
        return [{"type": "function", "function": {"name": draw(texts), "arguments": {draw(texts): draw(texts)}}}]

    return [
        {
            "role": role,
            "content": draw(texts),
            "name": draw(texts),
            "reasoning_content": draw(texts),
            "reasoning": draw(texts),
            "tool_calls": call(),
            "extra": draw(st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2)),
        }
        for role in draw(st.lists(st.sampled_from(["system", "user"]), min_size=1, max_size=2))
    ]


KEYS = (
    *("role", "content", "name", "reasoning_content", "reasoning", "tool_calls", "extra"),
    *("type", "function", "arguments"),
)


def harmless(value):
    """The same message with texts that are no part of any control string."""
    if isinstance(value, dict):
        kept = ("role", "type")
        return {key if key in KEYS else "ü": inner if key in kept else harmless(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [harmless(inner) for inner in value]
    return "ü" if value.strip() else value


@pytest.fixture(scope="module", params=[CHATML, SENTENCEPIECE], ids=["chatml", "sentencepiece"])
def vocabulary(request, tmp_path_factory):
    return request.param, Chat.load(request.param.write(tmp_path_factory.mktemp("vocabulary")))


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(data=st.data())
def test_no_control_token_comes_from_a_message(vocabulary, data):
    """The control tokens are those of the same template with harmless texts, and the text is the reference's."""
    strings, chat = vocabulary
    chat.template, conversation = data.draw(templates(strings)), data.draw(messages(strings))
    control = set(chat.tokenizer.control.values())
    ids, plain = chat.prompt_ids(conversation), chat.prompt_ids([harmless(message) for message in conversation])
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    theirs = chat.reference.apply_chat_template(
        conversation, chat_template=chat.template, tokenize=False, add_generation_prompt=True
    )
    ours = chat.reference.decode(ids, clean_up_tokenization_spaces=False)
    assert ours == theirs + chat.thinking.open
