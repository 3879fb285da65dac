"""The page at `/` in a real browser, before the pair: it asks for the key, streams, colours the authors, and stops."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tests.kit.browser import Page
from tests.kit.run_synthesize import QUESTIONS
from tests.kit.serving import held, serving, tiny_pair

EVIL = "<img src=x onerror=\"document.title='hurt'\"><script>document.title='hurt'</script>"
SPANS = "[...document.querySelectorAll('article:last-child .thinking span')].map(e => [e.className, e.textContent])"
FACTS = "document.querySelector('article:last-child .facts')?.textContent"


def by_author(message: Any) -> list[list[str]]:
    """Thinking in pieces, no two neighbours by the same author."""
    spans = [span for span in message.tessy["spans"] if span["phase"] == "think"]
    return [[span["by"], message.reasoning_content[span["start"] : span["end"]]] for span in spans]


def test_a_conversation(tmp_path: Path) -> None:
    served = dataclasses.replace(tiny_pair(), name=EVIL)
    with serving("s3cret", served) as server, Page(tmp_path / "profile") as page:
        # The key is asked for. The name of the model is text.
        page.visit(f"{server.url}/")
        page.wait("document.getElementById('error').textContent.includes(\"send the server's key\")")
        assert not page.value("document.getElementById('key-field').hidden")
        page.fill("key", "s3cret")
        page.wait("!document.getElementById('legend').hidden")
        assert page.value("document.getElementById('about').textContent").startswith(EVIL)
        assert page.value("document.getElementById('teacher').textContent") == "teacher: teacher"
        assert page.value("document.getElementById('error').hidden")

        # An answer, thinking apart and coloured as the API says.
        page.fill("seed", "7")
        page.fill("message", QUESTIONS[3])
        page.value("document.getElementById('message').focus()")
        page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r")
        page.wait(FACTS)
        client = server.client().with_options(api_key="s3cret")
        messages = [{"role": "user", "content": QUESTIONS[3]}]
        reply = client.chat.completions.create(model=EVIL, messages=messages, seed=7)
        message = reply.choices[0].message
        assert page.value(SPANS) == by_author(message)
        assert {author for author, _ in by_author(message)} == {"student", "teacher"}
        assert page.value("document.querySelector('article:last-child .answer').textContent") == message.content
        assert page.value(FACTS).startswith(f"{reply.usage.completion_tokens} tokens in ")
        colours = (
            "new Set([...document.querySelectorAll('.thinking span')].map(e => getComputedStyle(e).backgroundColor))"
        )
        assert page.value(f"{colours}.size") == 2

        # Stop ends the text on the server too; what was written stays. Whatever is said is text.
        page.fill("message", EVIL)
        with held(served.engine):
            page.value("document.getElementById('send').click()")
            page.wait(f"{SPANS}.length > 0")
            assert page.value("document.getElementById('send').disabled")
            page.value("document.getElementById('stop').click()")
            page.wait(f"{FACTS} === 'stopped'")
        server.wait("tessy_slots_taken", 0)
        assert page.value("document.querySelectorAll('article').length") == 4
        assert page.value("document.querySelector('article:nth-child(3) .text').textContent") == EVIL
        page.value(f"extend(document.querySelector('article:last-child .answer'), {json.dumps(EVIL)}, '')")
        assert page.value("document.querySelector('article:last-child .answer').textContent").endswith(EVIL)
        assert page.value("document.title") == "A conversation"
        assert page.value("document.querySelectorAll('main img, main script').length") == 1, "the page's own script"

        # What the server refuses is said, and the message can be sent again.
        page.fill("seed", "0.5")
        page.fill("message", "Hi")
        page.value("document.getElementById('send').click()")
        page.wait("document.getElementById('error').textContent.includes(\"'seed' should be a valid integer\")")
        assert page.value("document.getElementById('message').value") == "Hi"
        assert page.value("document.querySelectorAll('article').length") == 4

        # In the dark too; every field has a name.
        page.screenshot(tmp_path / "light.png")
        light = page.value("getComputedStyle(document.body).backgroundColor")
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.send("Emulation.setEmulatedMedia", features=dark)
        assert page.value("getComputedStyle(document.body).backgroundColor") != light
        page.screenshot(tmp_path / "dark.png")
        assert page.value("[...document.querySelectorAll('input, textarea')].every(e => e.labels.length === 1)")

        refused = [said for said in page.complaints if "status of 401" in said or "status of 400" in said]
        assert page.complaints == refused
        assert len(refused) == 2
        assert {address for address in page.requests if not address.startswith(f"{server.url}/")} <= {"data:,"}
