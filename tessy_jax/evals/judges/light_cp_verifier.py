"""LightCPVerifier, the judge of LiveCodeBench-Pro, over HTTP: https://github.com/YanagiOrigami/LightCPVerifier

It has the tests, and interactive problems as well; whoever runs it trusts its container. Its protocol:

    POST /submit {"pid", "lang", "code"}  ->  {"sid"}
    GET /result/<sid>                     ->  404 or {"status": "queued"} while it judges; {"status": "error", ...};
                                              {"status": "done", "passed", "result", "cases": [{"status", ...}]}
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from tessy_jax.errors import UserError
from tessy_jax.evals.judges.code import DETAIL, CodeVerdict
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import Language

LANGUAGES: dict[Language, str] = {"cpp17": "cpp", "python3": "python3", "pypy3": "pypy3"}
VERDICTS = {
    "Accepted": Verdict.ACCEPTED,
    "Wrong Answer": Verdict.WRONG_ANSWER,
    "Time Limit Exceeded": Verdict.TIME_LIMIT,
    "Memory Limit Exceeded": Verdict.MEMORY_LIMIT,
    "Output Limit Exceeded": Verdict.OUTPUT_LIMIT,
    "Nonzero Exit Status": Verdict.RUNTIME_ERROR,
    "Signalled": Verdict.RUNTIME_ERROR,
    "Runtime Error": Verdict.RUNTIME_ERROR,
    "Dangerous Syscall": Verdict.RUNTIME_ERROR,
    "File Error": Verdict.RUNTIME_ERROR,
}
"""The words of go-judge. Others are a failure of the judge."""


class EndpointError(UserError):
    """The judge does not answer, or not in its protocol."""


@dataclass(frozen=True)
class LightCPVerifier:
    """A client. For threads.

    Attributes:
        url: of the service: "http://127.0.0.1:8081".
        timeout: seconds that a submission may take, waiting for its turn included.
        pause: seconds between two questions for its result.
    """

    url: str
    timeout: float = 600.0
    pause: float = 0.5

    def judge(self, problem_id: str, language: Language, source: str) -> CodeVerdict:
        """Submits a program, and waits for the verdict.

        This service tells of compile errors as of failures of its own, and so JUDGE_ERROR they are: never wrong.

        Raises:
            EndpointError: there is no service; with its address and what to do.
        """
        verdict = self._judge_once(problem_id, language, source)
        return self._judge_once(problem_id, language, source) if verdict.verdict is Verdict.JUDGE_ERROR else verdict

    def identity(self) -> dict[str, Any]:
        return {"name": "light_cp_verifier", "version": 1}

    def _judge_once(self, problem_id: str, language: Language, source: str) -> CodeVerdict:
        started = time.monotonic()
        program = {"pid": problem_id, "lang": LANGUAGES[language], "code": source}
        answer = self._request("/submit", program)
        if answer is None or "sid" not in answer:
            return CodeVerdict(Verdict.JUDGE_ERROR, detail=f"the submission was not taken: {answer}"[:DETAIL])
        while time.monotonic() < started + self.timeout:
            result = self._request(f"/result/{quote(str(answer['sid']), safe='')}")
            if result is not None and result.get("status") not in ("queued", "judging", "running"):
                return replace(_verdict(result), wall_seconds=time.monotonic() - started)
            time.sleep(self.pause)
        return CodeVerdict(Verdict.JUDGE_ERROR, detail=f"no verdict after {self.timeout:.0f} s")

    def _request(self, path: str, body: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """The answer; None for "not found", which means: not yet."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                value = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404 and body is None:
                return None
            return {"status": "error", "error": f"{error.code}: {error.read(DETAIL).decode(errors='replace')}"}
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise EndpointError(
                f"{self.url}: LightCPVerifier does not answer ({reason}): start it, or correct its address"
            ) from None
        except ValueError:
            raise EndpointError(f"{self.url}{path}: the answer is not JSON: is this LightCPVerifier?") from None
        if not isinstance(value, dict):
            raise EndpointError(f"{self.url}{path}: the answer is not an object: is this LightCPVerifier?")
        return value


def _verdict(result: Mapping[str, Any]) -> CodeVerdict:
    cases = [case for case in result.get("cases") or [] if isinstance(case, dict)]
    passed = sum(case.get("status") == "Accepted" for case in cases)
    status = str(result.get("status", ""))
    last = str(result.get("result") or (cases[-1].get("status") if cases else ""))
    verdict = VERDICTS.get(last, Verdict.JUDGE_ERROR)
    if status == "error":
        verdict = Verdict.JUDGE_ERROR
    elif (verdict is Verdict.ACCEPTED) != bool(result.get("passed", verdict is Verdict.ACCEPTED)):
        verdict = Verdict.JUDGE_ERROR  # it contradicts itself
    if verdict is Verdict.ACCEPTED:
        return CodeVerdict(verdict, len(cases), passed)
    said = result.get("error") or result.get("message") or (cases[-1].get("msg") if cases else "") or ""
    return CodeVerdict(verdict, len(cases), passed, f"test {len(cases)}: {last or status}: {said}"[:DETAIL])
