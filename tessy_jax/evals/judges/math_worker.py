"""The process that compares formulas, one line of JSON each way. It stands alone, is never trusted to end, and imports
nothing of this package: `python -P math_worker.py <MiB of memory>`.

    {"gold", "answer", "tolerance"}  ->  {"equal", "how"}

math-verify's own time limit is off: it counts in whole seconds by a signal, and the parent kills.
"""

import json
import logging
import os
import resource
import sys


def limit(memory_mib: int) -> None:
    """What a formula may use: no file, no other process, so much memory."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(what, (0, 0))


def compare(gold: str, answer: str, tolerance: float | None) -> tuple[bool, str]:
    """Whether two formulas are equal, and by which rule."""
    from math_verify import verify

    wanted, given = parsed(gold), parsed(answer)
    if not wanted or not given:
        return False, "not a formula" if wanted else "the expected answer is not a formula"
    if tolerance is not None:
        pair = number(wanted), number(given)
        if pair[0] is not None and pair[1] is not None:
            return abs(pair[0] - pair[1]) <= 1.01 * tolerance, f"within {tolerance:g}"
    return verify(wanted, given, timeout_seconds=None), "math-verify"


def parsed(text: str) -> list:
    from math_verify import LatexExtractionConfig, parse

    return parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)


def number(formulas: list) -> float | None:
    """The value of a formula without letters; of an equation, of its right side."""
    from sympy import Eq, Expr

    formula = formulas[0]
    formula = formula.rhs if isinstance(formula, Eq) else formula
    if not isinstance(formula, Expr) or formula.free_symbols:
        return None
    try:
        return float(formula)
    except (TypeError, ValueError, OverflowError):
        return None


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no reply
    logging.disable()
    sys.set_int_max_str_digits(10_000)
    compare("1", "1", None)  # imports, before memory is limited
    limit(int(sys.argv[1]))
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        try:
            equal, how = compare(**json.loads(line))
        except MemoryError:
            equal, how = False, "needs too much memory"
        except RecursionError:
            equal, how = False, "is nested too deeply"
        except Exception as error:  # of math-verify, sympy or the grammar: any formula may bring out any of them
            equal, how = False, f"math-verify failed: {type(error).__name__}"
        print(json.dumps({"equal": bool(equal), "how": how}), file=replies, flush=True)


if __name__ == "__main__":
    main()
