"""The app of the story: a plain HTTP client that knows nothing of tokens."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ext_authz.standins.private_app import HELLO

_TIMEOUT_SECONDS = 10
_PAUSE_SECONDS = 0.5
_REFUSALS = (401, 403)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and text of an HTTP answer; status 0 means that there was none."""

    status: int
    text: str


def get(opener: urllib.request.OpenerDirector, url: str) -> Answer:
    """Fetch `url`; every failure comes back as an answer."""
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS) as response:
            return Answer(response.status, response.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        return Answer(0, f"{type(error).__name__}: {error}")


def get_when_up(opener: urllib.request.OpenerDirector, url: str, wait_seconds: float) -> Answer:
    """Fetch `url` until something other than no connection or 503 answers, within the time."""
    deadline = time.monotonic() + wait_seconds
    while (answer := get(opener, url)).status in (0, 503) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    return answer


def tell_the_story(
    url: str, *, direct_url: str, authority_file: Path | None, wait_seconds: float
) -> bool:
    """Call `direct_url` without the sidecar, then `url` by HTTP_PROXY; print what happens.

    Returns whether the first was refused and the second greeted.
    """
    context = ssl.create_default_context(cafile=str(authority_file) if authority_file else None)
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    refusal = get_when_up(direct, direct_url, wait_seconds)
    print(f"without the sidecar: GET {direct_url}")
    print(f"  {refusal.status} {first_sentence(refusal.text)}", flush=True)
    proxied = urllib.request.build_opener()  # the default: HTTP_PROXY from the environment
    greeting = get_when_up(proxied, url, wait_seconds)
    print(f"through HTTP_PROXY: GET {url}")
    print(f"  {greeting.status} {first_sentence(greeting.text)}", flush=True)
    return refusal.status in _REFUSALS and greeting.status == 200 and HELLO in greeting.text


def first_sentence(text: str) -> str:
    """Return the telling line of an answer: of a page its sentence, else its first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith("<h2>Your client")]
    line = next(iter(sentences or lines), "")
    for tag in ("<h2>", "</h2>", "<code>", "</code>"):
        line = line.replace(tag, "")
    return line
