"""The page at `/`: a conversation in a browser. It stands alone, and may speak to this server only."""

import base64
import hashlib
from importlib.resources import files

from starlette.responses import Response

from tessy_jax.console.html_page import PAGE_END, page_start

_TITLE = "A conversation"


def chat_page() -> Response:
    """The page, with what the browser may do for it: run its own script, and ask this server."""
    script, style = _asset("chat.js"), _asset("chat.css")
    icon = '<link rel="icon" href="data:,">'
    text = f"{page_start(_TITLE, style, icon)}{_asset('chat.html')}<script>{script}</script>\n{PAGE_END}"
    allowed = (
        f"default-src 'none'; script-src {_hash(script)}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": allowed,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text, media_type="text/html", headers=headers)


def _asset(name: str) -> str:
    return files("tessy_jax.serving").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
