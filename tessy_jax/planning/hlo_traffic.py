"""Bytes that a compiled program moves to and from a chip's main memory, read off the program's text.

The compiler's own sum ("bytes accessed") counts every operand of every operation, wherever it lies: what is first
brought into the chip's fast memory counts on its way there and again at each use. Here only what lies in main memory
counts: operands and results whose layout names no other memory space (`S(1)` is the fast one on TPUs). A loop counts
once, but those inside it as often as they run: a decode step has one over the experts, where they are packed.

Parts of arrays count as such: a slice or gather reads what it gives, an update in place writes what it puts there.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier"),
}
_VIEWS = {"bitcast", "copy"}
"""What is nothing inside a fusion: a copy in another layout is not made there."""
_PARTIAL_READ = {"dynamic-slice", "gather", "slice"}
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}
"""Operations that write into their first operand, and which operand holds what is written."""


@dataclass
class _Instruction:
    name: str
    arrays: list[tuple[int, bool]]  # of the result: bytes, and whether it lies in main memory
    kind: str
    operands: list[str]
    called: list[str]
    scope: str
    index: int = -1  # of a parameter
    constant: int | None = None  # of a constant that is a whole number
    cycles: int = 0  # by the compiler's estimate

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.arrays)

    @property
    def main(self) -> int:
        return sum(size for size, main in self.arrays if main)


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)
    root: str = ""

    def users(self, name: str) -> list[_Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]

    def parameter(self, index: int) -> str:
        return next(i.name for i in self.instructions.values() if i.kind == "parameter" and i.index == index)


def traffic(text: str, blocks: int = 1, pages: float = 1.0) -> dict[str, int]:
    """Bytes to and from main memory by the part of the model (its innermost known named scope); "ahead": copies into
    fast memory ahead of use, mostly weights. `blocks`: of slots that "by_length" reads (models/by_length.py);
    `pages`: the share of all pages that "pallas_tpu" does (models/pallas_tpu.py).
    """
    program, entry = _parse(text)
    out: dict[str, int] = defaultdict(int)
    for name, times in _run(program, entry, blocks).items():
        for instruction in program[name].instructions.values():
            moved = times * _moved(program, program[name], instruction)
            kernel = instruction.kind == "custom-call" and "/pallas_tpu/" in instruction.scope
            out[_group(instruction)] += round(moved * pages) if kernel else moved
    return {group: size for group, size in sorted(out.items(), key=lambda item: -item[1]) if size}


def repetition(text: str, blocks: int = 1) -> float:
    """How many times longer the program takes than a sum in which each loop counts once, by the compiler's estimates of
    its operations' cycles; 1 where it makes none. `blocks`: see `traffic`.
    """
    program, entry = _parse(text)
    found = [
        (n, sum(i.cycles for i in program[name].instructions.values()))
        for name, n in _run(program, entry, blocks).items()
    ]
    once = sum(cycles for _, cycles in found)
    return sum(times * cycles for times, cycles in found) / once if once else 1.0


def _run(program: dict[str, _Computation], entry: str, blocks: int) -> dict[str, int]:
    """The computations that are no fusions, and how often each runs."""
    times: dict[str, int] = {}
    waiting = [(entry, 1, 0)]
    while waiting:
        name, count, loops = waiting.pop()
        if name in times or name not in program:
            continue
        times[name] = count
        for instruction in program[name].instructions.values():
            if instruction.kind == "while":
                rounds = blocks if "/by_length/" in instruction.scope else _rounds(program, instruction.called)
                inner = count * (rounds if loops else 1)
                waiting += [(called, inner, loops + 1) for called in instruction.called]
            elif instruction.kind in ("conditional", "call"):
                waiting += [(called, count, loops) for called in instruction.called]
    return times


def _rounds(program: dict[str, _Computation], called: list[str]) -> int:
    """How often a loop runs whose condition compares its counter with a constant, as that of `fori_loop`; else 1."""
    for computation in (program[name] for name in called if name in program):
        test = computation.instructions[computation.root]
        if test.kind == "compare":
            bounds = [computation.instructions[o].constant for o in test.operands if o in computation.instructions]
            return max([1, *(bound for bound in bounds if bound is not None)])
    return 1


_SCOPES = ("sample", "logits", "attention", "mlp", "router", "experts")


def _group(instruction: _Instruction) -> str:
    if instruction.kind.startswith(("all-", "reduce-scatter", "collective-")):
        return "between chips"
    if instruction.kind in ("copy-done", "slice-done", "dynamic-slice-done"):
        return "ahead"
    return next((scope for scope in _SCOPES if f"/{scope}/" in f"/{instruction.scope}/"), "rest")


def _moved(program: dict[str, _Computation], inside: _Computation, instruction: _Instruction) -> int:
    if instruction.kind in _FREE or instruction.kind.endswith("-start"):
        return 0
    sources = [inside.instructions[o] for o in instruction.operands if o in inside.instructions]
    if instruction.kind.endswith("-done"):  # what arrives, and where from
        start = sources[0] if sources else instruction
        origin = [inside.instructions[o] for o in start.operands if o in inside.instructions]
        return (instruction.size if any(o.main for o in origin) else 0) + instruction.main
    if instruction.kind == "fusion":
        fused = program[instruction.called[0]]
        read = sum(_read(program, fused, i, source.main) for i, source in enumerate(sources))
        return read + _written(program, fused, fused.root, instruction.main)
    return _plain(instruction, sources)


def _plain(instruction: _Instruction, sources: list[_Instruction]) -> int:
    if instruction.kind in _IN_PLACE:
        others = sources[1:]
        return sum(s.main for s in others) + sources[_IN_PLACE[instruction.kind]].size
    if instruction.kind in _PARTIAL_READ:
        return min(instruction.size, sources[0].main) + sum(s.main for s in sources[1:]) + instruction.main
    return sum(s.main for s in sources) + instruction.main


def _read(program: dict[str, _Computation], fused: _Computation, index: int, whole: int) -> int:
    """Bytes of a fusion's operand that are read, if the whole is `whole` bytes in main memory."""
    return min(whole, _used(program, fused, fused.parameter(index), whole)) if whole else 0


def _used(program: dict[str, _Computation], fused: _Computation, name: str, whole: int) -> int:
    total = whole if name == fused.root else 0
    for user in fused.users(name):
        if user.kind in _VIEWS:
            total += _used(program, fused, user.name, whole)
        elif user.kind in _PARTIAL_READ and user.operands[0] == name:
            total += user.size
        elif user.kind in _IN_PLACE and user.operands[0] == name:
            continue
        elif user.kind == "fusion":
            inner = program[user.called[0]]
            for place in (inner.parameter(i) for i, operand in enumerate(user.operands) if operand == name):
                again = _is_view(inner, inner.root, place)
                total += _used(program, *((fused, user.name) if again else (inner, place)), whole)
        else:
            return whole
    return total


def _is_view(fused: _Computation, name: str, parameter: str) -> bool:
    """Whether `name` is the parameter itself in another shape."""
    while fused.instructions[name].kind in _VIEWS:
        name = fused.instructions[name].operands[0]
    return name == parameter


def _written(program: dict[str, _Computation], fused: _Computation, name: str, whole: int) -> int:
    """Bytes of a fusion's result that are written, if the whole is `whole` bytes in main memory."""
    root = fused.instructions[name]
    if not whole:
        return 0
    if root.kind == "bitcast":
        return _written(program, fused, root.operands[0], whole)
    if root.kind == "fusion":
        inner = program[root.called[0]]
        return _written(program, inner, inner.root, whole)
    if root.kind in _IN_PLACE:
        return min(whole, fused.instructions[root.operands[_IN_PLACE[root.kind]]].size)
    if root.kind == "tuple":
        return min(
            whole, sum(_written(program, fused, o, fused.instructions[o].main) for o in dict.fromkeys(root.operands))
        )
    return whole


# -- reading the text --------------------------------------------------------------------------------------------------


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    program: dict[str, _Computation] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            inside = program[opened[2]] = _Computation()
            entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (found := _instruction(line)):
            inside.instructions[found.name] = found
            if line.lstrip().startswith("ROOT"):
                inside.root = found.name
    return program, entry


def _instruction(line: str) -> _Instruction | None:
    found = _LINE.match(line)
    if not found:
        return None
    name, result, kind, rest = found.groups()
    inside, after = _split(rest)
    called = _CALLED.findall(after)
    if branches := _BRANCHES.search(after):
        called += [name.strip().lstrip("%") for name in branches[1].split(",")]
    scope = re.search(r'op_name="([^"]*)"', after)
    operands = re.findall(r"%([\w.\-]+)", inside)
    index = int(inside) if kind == "parameter" else -1
    constant = int(inside) if kind == "constant" and inside.isdigit() else None
    cycles = re.search(r'"estimated_cycles":"(\d+)"', after)
    return _Instruction(
        *(name, list(_arrays(result)), kind, operands, called, scope[1] if scope else "", index),
        *(constant, int(cycles[1]) if cycles else 0),
    )


def _split(rest: str) -> tuple[str, str]:
    """The operands of an instruction, and what follows their closing parenthesis."""
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return rest[:i], rest[i + 1 :]
    return rest, ""


def _arrays(result: str) -> Iterator[tuple[int, bool]]:
    for kind, sizes, layout in _ARRAY.findall(result):
        bits = _BITS.get(kind) if kind in _BITS else int(re.sub(r"\D.*", "", kind.lstrip("abcdefghijklmnopqrstuvwxyz")))
        count = math.prod(int(size) for size in sizes.split(",") if size)
        yield count * (bits or 0) // 8, "S(" not in layout
