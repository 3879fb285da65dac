"""Users' text in chat templates: what could be read there as a control token is hidden from the template."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})


class ControlStrings:
    """The texts of a vocabulary's control tokens, and where else in a text a part of one may stand."""

    def __init__(self, names: Collection[str]):
        # As in the reference, the longest of several that match wins.
        self._names = sorted(names, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, self._names)) or "(?!)")

    @cached_property
    def _starts(self) -> frozenset[str]:
        return frozenset(name[:n] for name in self._names for n in range(1, len(name)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(name[n:] for name in self._names for n in range(1, len(name)))

    @cached_property
    def _joined(self) -> str:
        return "\0".join(self._names)

    def open_ends(self, text: str) -> tuple[bool, bool]:
        """Whether what stands before a text, or after it, could make a control string together with it.

        With the control string <|end|>:  "|> a"  ->  True, False     "a <|"  ->  False, True     "end"  ->  True, True
        """
        longest = range(1, min(len(text), len(self._names[0]) - 1) + 1) if self._names and text else ()
        inside = text in self._joined if longest else False
        return (
            inside or any(text[:n] in self._ends for n in longest),
            inside or any(text[-n:] in self._starts for n in longest),
        )


class StandIns:
    """Rare characters in the place of control strings, and of characters that could become a part of one.

    They are printable ones, of CJK Extension B: what templates print of a list or an object shows others as escapes.

    Attributes:
        meaning: what each stands for.
    """

    def __init__(self, control: ControlStrings, used: Collection[str]):
        """`used`: characters that cannot stand for anything."""
        self.meaning: dict[str, str] = {}
        self._control = control
        self._chars: dict[str, str] = {}
        self._free = (c for c in map(chr, range(0x20000, 0x2A6D7)) if c not in used)

    def replace(self, text: str, keep: Collection[str] = ()) -> str:
        """A text without the control strings in it but those to `keep`."""
        return self._control.pattern.sub(lambda m: m[0] if m[0] in keep else self._stand_in(m[0]), text)

    def hide(self, text: str, keep: Collection[str] = ()) -> str:
        """A text in which no control token can be found but those to `keep`, whatever a template writes around it."""
        hidden = self.replace(text, keep)
        core = hidden.strip()  # templates like to strip texts
        before, after = self._control.open_ends(core)
        at = hidden.find(core)
        if before:
            hidden = hidden[:at] + self._stand_in(core[0]) + hidden[at + 1 :]
        if after and not (before and len(core) == 1):
            last = at + len(core) - 1
            hidden = hidden[:last] + self._stand_in(core[-1]) + hidden[last + 1 :]
        return hidden

    def hide_all(self, value: Any) -> Any:
        """A value in which all texts are hidden; templates look for names of fields and of types, which stay."""
        return _map_texts(value, self.hide, self.replace)

    def replace_all(self, value: Any) -> Any:
        """A value without control strings in its texts; templates may compare them among themselves."""
        return _map_texts(value, self.replace, self.replace)

    def hide_message(self, message: Mapping[str, Any], keep: Collection[str]) -> dict[str, Any]:
        """A message in which all texts are hidden; in an assistant's content, `keep` keeps its meaning."""
        role = message.get("role")
        hidden = {}
        for name, value in message.items():
            if name == "content":
                hidden[name] = self.hide(value, keep if role == "assistant" else ())
            else:
                hidden[name] = value if name == "role" and value in _ROLES else self.hide_all(value)
        return hidden

    def _stand_in(self, text: str) -> str:
        if text not in self._chars:
            self._chars[text] = next(self._free)
            self.meaning[self._chars[text]] = text
        return self._chars[text]


def characters(value: Any) -> set[str]:
    """The characters of all texts in a value."""
    found: set[str] = set()

    def note(text: str) -> str:
        found.update(text)
        return text

    _map_texts(value, note, note)
    return found


def shown(text: str, hidden: Mapping[str, str]) -> str:
    """`text` with what its `hidden` characters stand for."""
    restore = str.maketrans(dict(hidden))
    return text.translate(restore)


def _map_texts(value: Any, change: Callable[[str], str], change_name: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_map_texts(inner, change, change_name) for inner in value]
    if isinstance(value, Mapping):
        return {
            change_name(name) if isinstance(name, str) else name: _map_texts(
                inner, change_name if name == "type" else change, change_name
            )
            for name, inner in value.items()
        }
    return value
