"""No control token comes from users' text, whatever the template writes of it and around it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy_jax.text.chat import Chat
from tessy_jax.text.stand_ins import ControlStrings, StandIns
from tests.kit import vocab

NAMES = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return Chat.load(vocab.small_chatml(tmp_path_factory.mktemp("small")))


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
LITERALS = ("", "<", "<|", "<|im_", "|>", ">", "end|>", " ", "\\n", "</", "think>", "<|im_end|>", "<|im_start|>")
PIECES = st.sampled_from(
    (*NAMES, "<", "<|", "<|im_", "im_", "end|>", "|>", ">", "im_end", "</thi", "nk>", " ", "a", "é")
)
TEXTS = st.lists(PIECES, max_size=3).map("".join)


@st.composite
def templates(draw):
    """Fields of each message between pieces of control strings, in any order."""
    fields = draw(st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=4))
    pieces = "".join(
        f"{{{{ '{draw(st.sampled_from(LITERALS))}' + ({field} | default('') | string) }}}}" for field in fields
    )
    last = draw(st.sampled_from(LITERALS))
    return f"{{% for m in messages %}}{pieces}{{{{ '{last}' }}}}{{% endfor %}}<|im_start|>assistant\n"


@st.composite
def messages(draw):
    def call():
        return [{"type": "function", "function": {"name": draw(TEXTS), "arguments": {draw(TEXTS): draw(TEXTS)}}}]

    return [
        {
            "role": role,
            "content": draw(TEXTS),
            "name": draw(TEXTS),
            "reasoning_content": draw(TEXTS),
            "reasoning": draw(TEXTS),
            "tool_calls": call(),
            "extra": draw(st.dictionaries(TEXTS, st.lists(TEXTS, max_size=2), max_size=2)),
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


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(template=templates(), conversation=messages())
def test_no_control_token_comes_from_a_message(chat, template, conversation):
    """The control tokens are those of the same template with harmless texts, and the text is the reference's."""
    chat.template = template
    control = set(chat.tokenizer.control.values())
    ids, plain = chat.prompt_ids(conversation), chat.prompt_ids([harmless(message) for message in conversation])
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    theirs = chat.reference.apply_chat_template(
        conversation, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    ours = chat.reference.decode(ids, clean_up_tokenization_spaces=False)
    assert ours == theirs + chat.thinking.open
