"""Calls a function of /box/main.py, or a method of its class `Solution`, with the JSON values on standard input.

Arguments: the function's name; the file descriptor on which its value is written, as one JSON value. The judge trusts
neither this process nor what it writes: the expected value is not here.
"""

import json
import os
import sys
from types import ModuleType


def load():
    program = ModuleType("program")
    sys.modules["program"] = program  # dataclasses look there
    for path in ("/box/prelude.py", "/box/main.py"):
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), program.__dict__)
    return program


def main(function, result):
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n") if line.strip()]
    program = load()
    solution = getattr(program, "Solution", None)
    owner = solution() if hasattr(solution, function) else program
    value = getattr(owner, function)(*arguments)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        sys.stderr.write(f"the function returned no JSON value: {error}\n")
        return
    with os.fdopen(result, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
