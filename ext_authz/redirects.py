"""Turns a redirect to a destination of ours into one that leads back through us (pure)."""

from __future__ import annotations

import re

from ext_authz.decisions import Listener
from ext_authz.destination import forbidden_reason, parse_authority
from ext_authz.errors import BadDestinationError
from ext_authz.policy import Policy
from ext_authz.rules import HTTPS_PORT

_HTTPS = re.compile(r"https://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def rewritten(listener: Listener, client_authority: str, url: str, policy: Policy) -> str | None:
    """Return the URL to put in the place of an absolute https:// one, or None to leave it alone.

    In forward mode it becomes http://, which the client sends to us again. In reverse mode the
    upstream's own URL becomes the reverse listener's, as `client_authority` names it. Inside a
    tunnel the client finds its way back by itself.
    """
    found = _HTTPS.fullmatch(url)
    if found is None:
        return None
    try:
        destination = parse_authority(found.group(1))
        client = parse_authority(client_authority)
    except BadDestinationError:
        return None
    if forbidden_reason(destination, allow_loopback=policy.allow_loopback):
        return None
    if listener is Listener.REVERSE:
        upstream = policy.upstream
        same = upstream and (destination.host, destination.port or HTTPS_PORT) == (
            upstream.host,
            upstream.port or HTTPS_PORT,
        )
        return f"http://{client.authority()}{found.group(2)}" if same else None
    if listener is Listener.FORWARD and policy.matching(destination):
        return f"http://{destination.authority(HTTPS_PORT)}{found.group(2)}"
    return None
