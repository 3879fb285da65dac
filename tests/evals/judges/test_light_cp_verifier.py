"""The client of LightCPVerifier, against a server that follows its protocol."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tessy_jax.evals.judges.light_cp_verifier import EndpointError, LightCPVerifier
from tessy_jax.evals.records import Verdict


class Service(ThreadingHTTPServer):
    """Answers each submission with the next of `results`, after it was asked twice."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.results: list[Any] = []
        self.submissions: list[dict[str, str]] = []
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.submissions.append(json.loads(body))
        self.server.asked = 0
        self.answer(200, {"sid": len(self.server.submissions)})

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.asked == 1:
            self.answer(404, {"error": "not found"})
        elif self.server.asked == 2:
            self.answer(200, {"status": "queued"})
        else:
            number = int(self.path.removeprefix("/result/"))
            self.answer(200, self.server.results[number - 1])

    def answer(self, code: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def done(*statuses: str) -> dict[str, Any]:
    cases = [{"ok": status == "Accepted", "status": status, "msg": "said"} for status in statuses]
    return {"status": "done", "passed": statuses[-1] == "Accepted", "result": statuses[-1], "cases": cases}


@pytest.mark.parametrize(
    ("result", "verdict", "passed"),
    [
        (done("Accepted", "Accepted"), Verdict.ACCEPTED, 2),
        (done("Accepted", "Wrong Answer"), Verdict.WRONG_ANSWER, 1),
        (done("Time Limit Exceeded"), Verdict.TIME_LIMIT, 0),
        (done("Memory Limit Exceeded"), Verdict.MEMORY_LIMIT, 0),
        (done("Nonzero Exit Status"), Verdict.RUNTIME_ERROR, 0),
        (done("Signalled"), Verdict.RUNTIME_ERROR, 0),
        (done("Output Limit Exceeded"), Verdict.OUTPUT_LIMIT, 0),
    ],
)
def test_verdicts(service: Service, result: dict[str, Any], verdict: Verdict, passed: int):
    service.results = [result]
    judged = LightCPVerifier(service.url, pause=0.01).judge("1A", "cpp17", "int main() {}")
    assert (judged.verdict, judged.cases, judged.cases_passed) == (verdict, len(result["cases"]), passed)
    assert service.submissions == [{"pid": "1A", "lang": "cpp", "code": "int main() {}"}]


@pytest.mark.parametrize(
    "result",
    [
        {"status": "error", "error": "compile failed"},
        done("Internal Error"),
        {"status": "done", "passed": False, "result": "Accepted", "cases": []},
        {"status": "done"},
    ],
)
def test_failures_of_the_judge_are_tried_again_and_never_wrong(service: Service, result: dict[str, Any]):
    client = LightCPVerifier(service.url, pause=0.01)
    service.results = [result, done("Accepted"), result, result]
    assert client.judge("1A", "pypy3", "").verdict is Verdict.ACCEPTED
    assert client.judge("1A", "pypy3", "").verdict is Verdict.JUDGE_ERROR
    assert len(service.submissions) == 4


def test_a_verdict_that_does_not_come(service: Service):
    service.results = [{"status": "queued"}, {"status": "queued"}]
    judged = LightCPVerifier(service.url, timeout=0.1, pause=0.01).judge("1A", "python3", "")
    assert (judged.verdict, judged.detail) == (Verdict.JUDGE_ERROR, "no verdict after 0 s")


def test_no_service():
    with Service() as server:
        url = server.url
    with pytest.raises(EndpointError, match=f"{url}: LightCPVerifier does not answer .*: start it, or"):
        LightCPVerifier(url).judge("1A", "cpp17", "")


@pytest.mark.parametrize("answer", [b"<html>", [1]])
def test_another_service(service: Service, answer: Any):
    service.results = [answer]
    with pytest.raises(EndpointError, match="is this LightCPVerifier"):
        LightCPVerifier(service.url, pause=0.01).judge("1A", "cpp17", "")
