"""A server as an annotator: what it may do to us, and what we do then."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tessy_jax.annotation.annotator import AnnotatorError, Outcome, Refused
from tessy_jax.annotation.endpoint import Endpoint
from tessy_jax.config.annotate import EndpointConfig
from tessy_jax.data.segments import Annotated, Segment
from tessy_jax.errors import ConfigError

SEGMENTS = [Segment("r", 0, i, 0, f"Okay, so the solution is {i}.") for i in range(20)]


class Server:
    """Answers each request by `answer(body) -> (status, headers, text)`, and keeps what it was asked."""

    def __init__(self, answer):
        self.requests: list[tuple[dict, dict]] = []
        lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((dict(self.headers), body | {"path": self.path}))
                    status, headers, text = answer(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def serving(answer) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()


def said(text: str | None) -> tuple[int, dict, str]:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def endpoint(url: str, **values: object) -> Endpoint:
    quick = {"kind": "endpoint", "model": "big", "retries": 3, "backoff": 0.01, "timeout": 5.0, "concurrency": 4}
    return Endpoint(EndpointConfig.model_validate(quick | {"url": url} | values))


def annotate(annotator: Endpoint, segments=SEGMENTS) -> list[Outcome]:
    collect(annotator, outcomes := [], segments)
    return outcomes


def collect(annotator: Endpoint, outcomes: list[Outcome], segments=SEGMENTS) -> None:
    for group in annotator.annotate(iter(segments)):
        outcomes += group


def test_a_request_asks_for_one_segment_and_the_key_stays_secret(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with serving(lambda _: said('```json\n["Okay, so"]\n```')) as server:
        annotator = endpoint(server.url + "/", key_env="MY_KEY", extra={"top_p": 0.5}, concurrency=1)
        outcomes = annotate(annotator)
    assert sorted(o.segment.index for o in outcomes) == list(range(20))
    assert all(isinstance(o, Annotated) and [(s.start, s.end) for s in o.spans] == [(0, 8)] for o in outcomes)
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer s3cret"
    assert body.pop("path") == "/v1/chat/completions"
    assert body.keys() == {"model", "messages", "temperature", "max_tokens", "top_p"}
    assert body["messages"][0]["content"].endswith("solution is 0.")
    assert "s3cret" not in annotator.preview(SEGMENTS[0]) + str(annotator.identity())


def test_replies_that_are_no_list_are_refused():
    replies = iter([said("I cannot."), said('["so", "Okay"]'), said(None), (200, {}, "{}"), said('["Okay", "so t')])
    with serving(lambda _: next(replies)) as server:
        outcomes = annotate(endpoint(server.url, concurrency=1), SEGMENTS[:5])
    assert [o.reason for o in outcomes if isinstance(o, Refused)] == [
        "no JSON array in the reply: 'I cannot.'",
        "'Okay' is out of order: it stands before the phrase listed before it",
        "the server's answer holds no text (choices[0].message.content)",
        "the server's answer holds no text (choices[0].message.content)",
    ]
    assert isinstance(outcomes[4], Annotated)
    assert outcomes[4].truncated


@pytest.mark.parametrize(
    "bad",
    [(429, {"Retry-After": "0"}, "slow down"), (500, {}, "oops"), (503, {}, ""), (200, {}, "<html>a proxy</html>")],
)
def test_a_busy_or_failing_server_is_asked_again(bad):
    answers = iter([bad, bad, bad, said("[]"), bad, said("[]")])
    with serving(lambda _: next(answers)) as server:
        outcomes = annotate(endpoint(server.url, concurrency=1), SEGMENTS[:2])
    assert outcomes == [Annotated(segment, []) for segment in SEGMENTS[:2]]
    assert len(server.requests) == 6


def test_retries_are_bounded():
    with serving(lambda _: (500, {}, "oops s3cret")) as server, pytest.raises(AnnotatorError) as error:
        annotate(endpoint(server.url, concurrency=1))
    assert str(error.value) == f"{server.url}/chat/completions did not answer, asked 4 times: 500 oops s3cret"
    assert len(server.requests) == 4


def test_a_dead_endpoint_ends_the_run():
    with serving(lambda _: said("[]")) as server:
        pass
    with pytest.raises(AnnotatorError, match=r"did not answer, asked 4 times: .*refused"):
        annotate(endpoint(server.url))


def test_a_server_that_hangs_is_not_waited_for():
    release = threading.Event()

    def hang(_):
        release.wait(5)
        return said("[]")

    with serving(hang) as server:
        with pytest.raises(AnnotatorError, match=r"asked 2 times: timed out"):
            annotate(endpoint(server.url, timeout=0.1, retries=1, concurrency=1))
        release.set()


def test_a_server_that_dies_loses_nothing():
    """What was answered is handed out before the error, each segment once."""
    answered = []

    def die(body):
        if len(answered) == 7:
            return 500, {}, "dead"
        answered.append(body)
        return said("[]")

    outcomes: list[Outcome] = []
    with serving(die) as server, pytest.raises(AnnotatorError):
        collect(endpoint(server.url), outcomes)
    assert len({o.segment for o in outcomes}) == len(outcomes) == 7


def test_errors_that_no_retry_mends_end_the_run_at_once(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with serving(lambda _: (401, {}, "wrong key:\n s3cret")) as server, pytest.raises(AnnotatorError) as error:
        annotate(endpoint(server.url, key_env="MY_KEY", concurrency=1))
    assert str(error.value) == f"{server.url}/chat/completions answered 401 wrong key: ***"
    assert len(server.requests) == 1


def test_one_error_that_ends_the_run_ends_the_waiting_of_the_others():
    def answer(body):
        first = "solution is 0." in body["messages"][0]["content"]
        return (503, {}, "busy") if first else (403, {}, "no")

    with serving(answer) as server, pytest.raises(AnnotatorError, match="answered 403 no"):
        annotate(endpoint(server.url, concurrency=2, backoff=0.5), SEGMENTS[:2])
    assert len(server.requests) == 2


def test_redirects_do_not_take_the_key_along(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with serving(lambda _: said("[]")) as other:
        moved = (302, {"Location": other.url}, "")
        with serving(lambda _: moved) as server, pytest.raises(AnnotatorError, match="answered 302"):
            annotate(endpoint(server.url, key_env="MY_KEY"))
    assert not other.requests


def test_a_segment_that_the_server_refuses_is_refused_alone():
    def answer(body):
        bad = "solution is 3." in body["messages"][0]["content"]
        return (400, {}, "filtered") if bad else said("[]")

    with serving(answer) as server:
        outcomes = annotate(endpoint(server.url))
    refused = [o for o in outcomes if isinstance(o, Refused)]
    assert [(o.segment.index, o.reason) for o in refused] == [(3, "the server refused the request: 400 filtered")]
    assert len(outcomes) == 20


def test_a_server_that_takes_no_request_ends_the_run():
    """Then it is the request and not the segments: none is refused for it."""
    outcomes: list[Outcome] = []
    with (
        serving(lambda _: (400, {}, "unknown model")) as server,
        pytest.raises(AnnotatorError, match=r"took none of \d+ requests: the server refused the request: 400 unknown"),
    ):
        collect(endpoint(server.url), outcomes)
    assert outcomes == []
    assert len(server.requests) < 20


def test_a_key_that_is_not_set_is_an_error(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="environment variable MY_KEY is not set"):
        endpoint("http://localhost/v1", key_env="MY_KEY")


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://me:s3cret@host/v1"])
def test_a_url_that_cannot_be_asked_is_refused(url):
    with pytest.raises(ValueError, match="url") as error:
        endpoint(url)
    assert "Value error" in str(error.value)
