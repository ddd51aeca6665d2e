"""Says what would happen to a request, without sending anything."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ext_authz.decisions import Deny, Discover, Inject, Listener, Pass, Request
from ext_authz.destination import Destination
from ext_authz.errors import UsageError
from ext_authz.policy import Policy, decide
from ext_authz.rules import DEFAULT
from ext_authz.settings import Settings
from ext_authz.sources import Source


def authority_of(url: str) -> str:
    """Return the `host[:port]` of a URL, or of a bare authority. Raises UsageError."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        if parts.scheme not in ("", "http", "https") or not parts.netloc:
            raise ValueError
    except ValueError:
        raise UsageError(f"expected a URL such as http://service/path, got {url!r}") from None
    return parts.netloc


def request_for(url: str) -> Request:
    """Return the facts of a plain request to a URL through the forward proxy. Raises UsageError."""
    authority = authority_of(url)
    path = urlsplit(url if "://" in url else f"//{url}").path
    return Request(Listener.FORWARD, authority, path=path)


def explain(url: str, settings: Settings, sources: dict[str, Source]) -> dict[str, Any]:
    """Return what the decision for this URL is and why, as a JSON-ready mapping.

    Raises UsageError when it is no URL.
    """
    policy = settings.policy()
    request = request_for(url)
    decision = decide(request, policy)
    found: dict[str, Any] = {"url": url, "authority": request.authority}
    match decision:
        case Inject():
            found |= _injection(decision, policy, sources[decision.rule.credential])
        case Pass():
            found |= {"decision": "pass", "upstream": f"http://{decision.authority}"}
        case Deny():
            found |= {
                "decision": "deny",
                "status": decision.code.http_status,
                "error": decision.code.word,
                "message": decision.message,
            }
        case Discover():
            found |= {
                "decision": "discover",
                "message": "a short name: it stands for a service of the project that the sidecar "
                "runs in, which the metadata server there tells",
            }
    return found


def _injection(decision: Inject, policy: Policy, source: Source) -> dict[str, Any]:
    return {
        "decision": "inject",
        "rule": decision.rule.match,
        "also_matching": _losers(decision.destination, policy),
        "audience": decision.audience or None,
        "credential": decision.rule.credential,
        "credential_kind": source.kind,
        "credential_found": source.found,
        "credential_note": source.note or None,
        "header": decision.header.value,
        "header_if_app_sends_authorization": _second_header(decision, policy),
        "upstream": f"https://{decision.authority}",
    }


def _losers(destination: Destination, policy: Policy) -> list[str]:
    matching = policy.matching(destination)
    why = "a longer suffix" if matching and matching[0].is_suffix else "an exact host"
    return [f"{rule.match} (lost to {why})" for rule in matching[1:]]


def _second_header(decision: Inject, policy: Policy) -> str:
    authority = decision.destination.authority()
    request = Request(Listener.FORWARD, authority, path="/function", has_authorization=True)
    other = decide(request, policy)
    return other.header.value if isinstance(other, Inject) else "the app's own is kept"


def as_text(found: dict[str, Any]) -> str:
    """Lay the explanation out for a terminal, one fact on a line."""
    width = max(map(len, found))
    lines = []
    for name, value in found.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else value
        lines.append(f"{name.replace('_', ' '):<{width}}  {'none' if shown is None else shown}")
    return "\n".join(lines)


def audience_and_credential(text: str, settings: Settings) -> tuple[str, str]:
    """Return (credential, audience): of a URL by its rule; anything else is an audience."""
    if not text.strip():
        raise UsageError("expected a URL or an audience, got an empty text")
    if "://" in text:
        decision = decide(request_for(text), settings.policy())
        if isinstance(decision, Inject):
            return decision.rule.credential, decision.audience
    return DEFAULT, text
