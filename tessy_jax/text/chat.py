"""Prompts from a checkpoint's own chat template, and the control tokens that end thinking and turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tessy_jax.text.reference import open_reference, read_settings, refuse_unknown_tokens, template_of
from tessy_jax.text.stand_ins import ControlStrings, StandIns, characters, shown
from tessy_jax.text.templates import dated, hash_template
from tessy_jax.text.thinking import Thinking, refuse_cut_point, thinking_of
from tessy_jax.text.tokenizer import ContentTokenizer, TextError

Messages = Sequence[Mapping[str, Any]]
"""Chat messages: `{"role": ..., "content": text}`."""

CHANNEL_TOKENS = (
    *("<tool_call>", "<|tool_call|>", "<|tool_call_start|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    *("<|python_tag|>", "[TOOL_CALLS]", "<|call|>", "<|channel|>"),
)
"""Control tokens that leave the text for a tool call or another channel (Qwen, Phi, LFM, DeepSeek, Llama, Mistral,
GPT-OSS).
"""

PROBES: tuple[Messages, ...] = (
    ({"role": "user", "content": "What is 1 + 1?"},),
    ({"role": "user", "content": "Find all x ≤ 12345 with\n\n    x² = 49.\r\n\n  It's “hard”: 中文, naïve, 👍.\n"},),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi! How are you?"},
        {"role": "user", "content": "Fine."},
    ),
)
"""Conversations for which `Chat.check` compares prompts with the checkpoint's own tokenizer."""


_DATA = ("tools", "documents")
"""Variables of a template that hold texts of others: control strings in them are text."""


def with_system(system: str | None, messages: Messages) -> Messages:
    """`messages` with a system message first, unless they bring one of their own."""
    if system is None or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


class Chat:
    """The text side of one checkpoint: its content tokenizer, its prompts and its control tokens."""

    def __init__(
        self,
        folder: Path,
        tokenizer: ContentTokenizer,
        reference: Any,
        template: str,
        thinking: Thinking,
        options: Mapping[str, Any],
    ):
        """Use `load`. `reference` is the checkpoint's `transformers` tokenizer."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.reference = reference
        self.template = template
        self.thinking = thinking
        self.options = options
        self._strings = ControlStrings(tokenizer.control)
        self._control = self._strings.pattern

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        template: str | None = None,
        thinking: Thinking | None = None,
        options: Mapping[str, Any] | None = None,
        date: str | None = None,
    ) -> Chat:
        """Reads the tokenizer and template of a checkpoint folder; no network.

        Args:
            folder: with tokenizer.json and tokenizer_config.json.
            template: a Jinja chat template to use instead of the checkpoint's (base models have none).
            thinking: how thinking is written; `thinking_of(folder)` by default.
            options: variables of the template, such as GPT-OSS's `reasoning_effort`.
            date: what a template that writes the date writes; None: today, so prompts change from day to day.

        Raises `TextError` when a file or the template is missing, or a textual marker could be cut in two.
        """
        thinking = thinking or thinking_of(folder)
        tokenizer = ContentTokenizer.load(folder, structural=(thinking.marker,))
        refuse_unknown_tokens(Path(folder), tokenizer.ids)
        reference = open_reference(folder, template)
        if template is None:
            template = template_of(reference, folder)
        template = dated(template, date)
        chat = cls(Path(folder), tokenizer, reference, template, thinking, options or {})
        if chat.textual_marker is not None:
            refuse_cut_point(chat.textual_marker)
        return chat

    # Prompts

    def prompt_ids(self, messages: Messages) -> list[int]:
        """The prompt up to where the trace begins: the template with its generation prompt, then `thinking.open` if
        it is not there yet.

        Control strings in messages are text, in whatever field the template writes. In an assistant's content the two
        thinking strings keep their meaning: templates look for them. Raises `TextError` when the template refuses the
        messages, or has closed the thinking already.
        """
        rendered, hidden = self._render(messages)
        return self._encode(self._opened(rendered), hidden)

    def prompt_parts(self, messages: Messages) -> tuple[list[int], bytes]:
        """The same as `prompt_ids` in two parts: the tokens up to the last control token, and the text behind it, which
        may be tokenised as one string with what follows.
        """
        rendered, hidden = self._render(messages)
        prompt = self._opened(rendered)
        at = max((found.end() for found in self._control.finditer(prompt)), default=0)
        return self._encode(prompt[:at], hidden), shown(prompt[at:], hidden).encode()

    def bare_prompt_ids(self, messages: Messages) -> list[int]:
        """The prompt up to an assistant's message that does not think: without `thinking.open`, even where the
        template writes it. Where an answer is a message of its own (harmony), that message has begun.
        """
        rendered, hidden = self._render(messages)
        bare, after = self._bare(rendered), self.thinking.after
        if self._control.match(after):
            begun = next(n for n in range(len(after), -1, -1) if bare.endswith(after[:n]))
            bare += after[begun:]
        return self._encode(bare, hidden)

    def _render(self, messages: Messages) -> tuple[str, dict[str, str]]:
        """The rendered prompt, in which rare characters stand for control strings of the messages, and what
        those stand for.
        """
        for message in messages:
            if not isinstance(message.get("content"), str):
                what = type(message.get("content")).__name__
                raise TextError(f"the content of a {message.get('role')} message is {what}, not text.")
        hidden = StandIns(self._strings, characters([self.template, self.options, list(messages)]))
        meant = {self.thinking.open.strip(), self.thinking.marker}
        data = {name: hidden.replace_all(self.options[name]) for name in _DATA if name in self.options}
        rendered = self._apply([hidden.hide_message(message, meant) for message in messages], **data)
        return rendered, hidden.meaning

    def _apply(self, messages: Iterable[Mapping[str, Any]], answer_next: bool = True, **data: Any) -> str:
        from jinja2 import TemplateError

        try:
            return self.reference.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer_next, **self._variables | data
            )
        except TemplateError as error:
            raise TextError(f"the chat template of {self.folder} refuses the messages: {error}") from error
        except Exception as error:  # templates are programs: they can fail in any way
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TextError(f"the chat template of {self.folder} fails on the messages: {what}") from error

    @property
    def _variables(self) -> dict[str, Any]:
        """What every rendering is given."""
        return {"chat_template": self.template, **self.options}

    def _opened(self, rendered: str) -> str:
        """`rendered` with `thinking.open` at its end; a template may already have written it, without its last white
        space. Raises `TextError` where it has also closed it.
        """
        if self._is_closed(rendered):
            raise TextError(
                f"the chat template of {self.folder} has closed the thinking where it should begin"
                f" ({rendered.rstrip()[-40:]!r}): let it think by prompt.options, for many models"
                " {enable_thinking: true} or {thinking: true}, or give another prompt.template."
            )
        return self._bare(rendered) + self.thinking.open

    def _is_closed(self, rendered: str) -> bool:
        """Whether the template ends the prompt with an empty thinking, or with its end alone (DeepSeek V3.1)."""
        opening, marker, prompt = self.thinking.open.strip(), self.thinking.marker, rendered.rstrip()
        if not opening or not prompt.endswith(marker):
            return False
        return bool(self.end_ids) or prompt.removesuffix(marker).rstrip().endswith(opening)

    def _bare(self, rendered: str) -> str:
        opening = self.thinking.open
        for written in (opening, opening.rstrip()):
            if rendered.endswith(written):
                return rendered.removesuffix(written)
        return rendered

    def _encode(self, text: str, hidden: Mapping[str, str]) -> list[int]:
        """Ids of text in which control strings are control tokens, and `hidden` characters stand for text."""
        ids: list[int] = []
        at = 0
        for found in self._control.finditer(text):
            ids += self._content(shown(text[at : found.start()], hidden))
            ids.append(self.tokenizer.control[found.group()])
            at = found.end()
        return ids + self._content(shown(text[at:], hidden))

    def _content(self, text: str) -> list[int]:
        return self.tokenizer.encode(text.encode())[0] if text else []

    # Control tokens

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The token that ends thinking; empty if the marker is textual."""
        found = self.tokenizer.id_of(self.thinking.marker)
        return frozenset() if found is None else frozenset([found])

    @property
    def textual_marker(self) -> bytes | None:
        """The bytes of the marker that ends thinking, if it is to be found in the text."""
        return None if self.end_ids else self.thinking.marker.encode()

    @cached_property
    def channel_ids(self) -> frozenset[int]:
        """Control tokens that begin a tool call or another channel."""
        return frozenset(self.tokenizer.control[name] for name in CHANNEL_TOKENS if name in self.tokenizer.control)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end the turn: `eos_token_id` of generation_config.json, config.json and the tokenizer, and what
        the template writes after an answer.

        An id can also be in `end_ids` or `channel_ids`; while thinking, those say what it means.
        """
        found = {self.reference.eos_token_id, self._after_answer()}
        for name in ("generation_config.json", "config.json"):
            value = read_settings(self.folder, name).get("eos_token_id")
            found.update(value if isinstance(value, list) else [value])
        if wrong := [i for i in found if i is not None and not isinstance(i, int)]:
            raise TextError(
                f"{self.folder}: eos_token_id of generation_config.json or config.json: is {wrong[0]!r:.60}."
            )
        return frozenset(i for i in found if i is not None)

    @cached_property
    def end_of_turn(self) -> int:
        """The token that ends an assistant's message: what the template writes after it, else the tokenizer's EOS.

        Raises `TextError` where there is neither.
        """
        found = self._after_answer()
        found = self.reference.eos_token_id if found is None else found
        if found is None:
            raise TextError(
                f"{self.folder}: neither the chat template nor tokenizer_config.json (eos_token) says which token ends"
                " an answer: name one as eos_token."
            )
        return found

    def _after_answer(self) -> int | None:
        """The control token that the template writes right after an assistant's message, if any."""
        answer = "An answer."
        turn = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": answer}]
        try:
            rendered = self._apply(turn, answer_next=False)
        except TextError:  # a template for single questions
            return None
        found = self._control.match(rendered.partition(answer)[2].lstrip())
        return self.tokenizer.control[found.group()] if found else None

    # The student's text

    @property
    def close_text(self) -> bytes:
        """What stands between the trace and the answer."""
        return self.thinking.close.encode()

    def closed_ids(self, trace: bytes, answer: bytes = b"", start: int = 0) -> list[int]:
        """Canonical tokens of `trace[start:]`, the end of thinking and `answer`; `start` is 0 or a sync point of the
        trace.
        """
        before, after = self.thinking.before.encode(), self.thinking.after.encode()
        return self.written_ids(trace[start:] + before, after + answer)[0]

    def written_ids(self, thought: bytes, answer: bytes) -> tuple[list[int], list[int]]:
        """Tokens of `thought`, the marker and `answer`, all white space theirs, and the byte where each token ends.

        Control tokens of the marker, and of `thinking.after` where the answer begins with it, separate texts; a textual
        marker is part of one text.
        """
        after = self.thinking.after if answer.startswith(self.thinking.after.encode()) else ""
        between, rest = self.thinking.marker + after, answer[len(after.encode()) :]
        ids: list[int] = []
        ends: list[int] = []
        done = 0

        def add(new: list[int], new_ends: list[int], size: int) -> None:
            nonlocal done
            ids.extend(new)
            ends.extend(done + end for end in new_ends)
            done += size

        text, at = thought, 0
        for found in self._control.finditer(between):
            text += between[at : found.start()].encode()
            add(*self.tokenizer.encode(text), len(text))
            size = len(found.group().encode())
            add([self.tokenizer.control[found.group()]], [size], size)
            text, at = b"", found.end()
        text += between[at:].encode() + rest
        add(*self.tokenizer.encode(text), len(text))
        return ids, ends

    # Conformance

    def check_fits(self, rows: int) -> None:
        """Raises `TextError` where the model's embedding, which has so many rows, is too small for what is written."""
        thinking, end = self.thinking, self.reference.eos_token or ""
        markers = (thinking.open, thinking.before, thinking.marker, thinking.after, end)
        self.tokenizer.check_fits(rows, "\n".join((self.template, *markers)))

    @cached_property
    def template_hash(self) -> str:
        """SHA-256 of the template, its variables and how thinking is written, for manifests."""
        return hash_template(self.template, self.thinking, self.options)

    def check(self) -> None:
        """Compares the prompts of `PROBES` with the checkpoint's own tokenizer and template. Raises `TextError` at
        the first difference.

        A template that refuses a conversation (no earlier turns, say) is not compared on it; the first probe must pass.
        """
        for number, messages in enumerate(PROBES):
            try:
                rendered, hidden = self._render(messages)
            except TextError:
                if number == 0:
                    raise
                continue
            if self.tokenizer.control.keys() & set(hidden.values()):
                continue  # of `options`: text here, and control tokens in the reference
            theirs = self.reference.apply_chat_template(
                list(messages),
                tokenize=True,
                add_generation_prompt=True,
                return_dict=False,
                **self._variables,
            )
            self._compare("chat template", self._encode(rendered, hidden), theirs)
            if self._is_closed(rendered):  # no prompt for thinking: `prompt_ids` refuses it
                continue
            opened = self.reference(self._opened(rendered), add_special_tokens=False)["input_ids"]
            ids = self.prompt_ids(messages)
            self._compare("chat template with the opening of the thinking", ids, opened)
            self._check_bos(ids)

    def _compare(self, what: str, ours: list[int], theirs: list[int]) -> None:
        if ours == theirs:
            return
        pairs = zip(ours, theirs, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        near = slice(max(0, at - 3), at + 4)
        names = self.reference.convert_ids_to_tokens
        raise TextError(
            f"{self.folder}: the tokens of the {what} differ from the checkpoint's own tokenizer at token {at}:"
            f" ours {names(ours[near])}, the checkpoint's {names(theirs[near])}."
            " Check that tokenizer.json and tokenizer_config.json are of one checkpoint."
        )

    def _check_bos(self, ids: list[int]) -> None:
        bos = self.reference.bos_token_id
        count = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        if count > 1:
            raise TextError(
                f"{self.folder}: the prompt begins with {count} {self.reference.bos_token} tokens:"
                " the template must write one."
            )
        adds = bos is not None and self.reference("a")["input_ids"][:1] == [bos]
        if adds and count == 0:
            raise TextError(
                f"{self.folder}: the tokenizer begins texts with {self.reference.bos_token}, and the template does not"
                " write it: put {{ bos_token }} at its start."
            )
