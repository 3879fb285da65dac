"""A store of Google's kind on this machine.

gcp-storage-emulator knows no preconditions; here it creates an object only where there is none, if it is asked to, as
Google's store does (`ifGenerationMatch=0`).
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from unittest import mock

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

from tests.kit import stores

BUCKET = "traces"


@contextmanager
def served() -> Iterator[None]:
    """A server with a bucket, and the variable by which gcsfs finds it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Or gcsfs asks Google what kind of bucket it is.
    variables = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    upload = objects._multipart_upload

    def insert(request: Any, response: Any, storage: Any) -> None:
        if request.query.get("ifGenerationMatch") == ["0"] and _exists(request, storage):
            response.status = HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412, "message": "conditionNotMet"}})
        else:
            upload(request, response, storage)

    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(objects, "_multipart_upload", insert),
        server,
    ):
        stores.forget()
        try:
            yield
        finally:
            stores.forget()


def _exists(request: Any, storage: Any) -> bool:
    try:
        storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
    except NotFound:
        return False
    return True
