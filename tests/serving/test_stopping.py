"""A server that asks for a key, and servers that stop."""

import threading
import time

import pytest

from tests.kit.serving import LONG, PROMPT, held, serving, tiny


def test_a_key_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with serving(key="s3cret") as server:
        for wrong in ("none", "s3cre", "ü"):
            status, answer, headers = server.post("/v1/completions", PROMPT, Authorization=f"Bearer {wrong}")
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
        status, answer, _ = server.post("/v1/completions", PROMPT | {"max_tokens": 2}, Authorization="Bearer s3cret")
        assert status == 200
        assert answer["usage"]["completion_tokens"] <= 2
        assert server.metric("tessy_http_answers_total") == 4
    assert "s3cret" not in caplog.text


def test_what_runs_is_finished_and_nothing_new_is_taken() -> None:
    with serving() as server:
        with held(tiny().engine):
            chunks = iter(server.client().completions.create(**LONG, stream=True))
            next(chunks)
            server.stop.set()
            while not server.stopping():
                time.sleep(0.02)
            status, answer, headers = server.post("/v1/completions", PROMPT)
            assert (status, answer["error"]["code"]) == (503, "stopping")
            assert "retry-after" in headers
        assert list(chunks)[-1].choices[0].finish_reason in ("stop", "length")
        server.thread.join(timeout=60)
        assert not server.thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told, and the command ends with what went wrong."""

    def fail(jobs: object) -> None:
        raise RuntimeError("no more memory")

    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_value))
    monkeypatch.setattr(tiny().engine, "run", fail)
    with serving() as server:
        status, answer, _ = server.post("/v1/completions", PROMPT)
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert "no more memory" not in answer["error"]["message"]
        server.thread.join(timeout=60)
        assert not server.thread.is_alive()
    assert [str(error) for error in raised] == ["no more memory"]
