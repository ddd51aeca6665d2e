"""Reads small secret files, whole and bounded; an error names the path and never the content."""

from __future__ import annotations

import base64
import binascii
import json
import stat
from collections.abc import Mapping
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.settings import EnvSecret, Secret

MAX_SECRET_BYTES = 64 * 1024  # a key file is 2.4 KiB, a federation file less


def read_secret(secret: Secret, code: str) -> bytes:
    """Return the content. Raises SourceError with `code` if it is absent, empty, huge, no file."""
    if isinstance(secret, EnvSecret):
        return secret.value.encode("utf-8", "surrogateescape")
    try:
        if stat.S_ISFIFO(secret.path.stat().st_mode):  # opening it would wait for a writer
            raise _bad(secret, "expected a regular file, got a pipe", code)
        with secret.path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise _bad(secret, f"it cannot be read: {error.strerror}", code) from None
    except ValueError:
        raise _bad(secret, "it cannot be the path of a file", code) from None
    if len(content) > MAX_SECRET_BYTES:
        raise _bad(secret, f"expected at most {MAX_SECRET_BYTES} bytes, got more", code)
    if not content.strip():
        raise _bad(secret, "expected some content, got an empty file", code)
    return content


def read_json(secret: Secret, code: str) -> Mapping[str, Any]:
    """Return the JSON object behind a secret, raw or in base64. Raises SourceError with `code`."""
    content = read_secret(secret, code)
    try:
        if not content.lstrip().startswith(b"{"):
            content = base64.b64decode(b"".join(content.split()), validate=True)
        document = json.loads(content)
    except (ValueError, binascii.Error, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _bad(secret, "expected a JSON object, raw or in base64", code)
    return document


def _bad(secret: Secret, sentence: str, code: str) -> SourceError:
    return SourceError(f"{secret}: {sentence}", code=code, permanent=True)
