"""Says of each destination whether a request would get through, and if not, why and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ext_authz import probe
from ext_authz.clock import Now
from ext_authz.decisions import Deny, Discover, Inject
from ext_authz.destination import Destination, parse_authority
from ext_authz.errors import SidecarError
from ext_authz.explain import request_for
from ext_authz.policy import Policy, decide
from ext_authz.settings import Settings
from ext_authz.sources import Source
from ext_authz.tokens import Token, accept, seconds_left, unverified_claims

TOLERATED_SKEW_SECONDS = 30.0  # half of the margin that tokens are sent with


@dataclass(slots=True)
class Finding:
    """What was found out about one destination; `verdict` is a stable word, `advice` a sentence."""

    destination: str
    verdict: str = ""
    advice: str = ""
    credential: str = ""
    credential_found: str = ""
    identity: str = ""
    audience: str = ""
    expires_in_seconds: int | None = None
    addresses: list[str] = field(default_factory=list)
    clock_skew_seconds: int | None = None
    status_without_token: int | None = None
    status_with_token: int | None = None

    @property
    def is_good(self) -> bool:
        """Say whether requests get through."""
        return self.verdict in ("reachable", "public", "wildcard")


class Doctor:
    """Examines destinations; `now` is read once, for the clock's skew."""

    def __init__(self, settings: Settings, sources: dict[str, Source], now: Now) -> None:
        self._settings = settings
        self._policy: Policy = settings.policy()
        self._sources = sources
        self._now = now

    def targets(self, urls: Iterable[str]) -> list[str]:
        """Return what to examine: the URLs given, else every rule's host."""
        return list(urls) or [rule.match for rule in self._policy.rules]

    def examine(self, target: str, sidecar: str = "") -> Finding:
        """Look at one destination, directly or through a running sidecar (`host:port`)."""
        finding = Finding(target)
        if target.startswith("*."):
            finding.verdict = "wildcard"
            finding.advice = "name one of its hosts to have it examined: doctor https://HOST"
            return finding
        decision = decide(request_for(target), self._policy)
        if not isinstance(decision, Inject):
            return _without_rule(finding, decision)
        if sidecar:
            return self._through(finding, decision, sidecar)
        return self._directly(finding, decision)

    def _directly(self, finding: Finding, decision: Inject) -> Finding:
        destination = parse_authority(decision.authority)
        token = self._token(finding, decision)
        loopback, ca_file = self._policy.allow_loopback, self._settings.ca_file
        finding.addresses, wrong = probe.resolve(destination, allow_loopback=loopback)
        if wrong:
            return _conclude(finding, "unresolvable", f"{wrong}: check the name and the DNS")
        address = finding.addresses[0]
        bare = probe.ask(destination, address, {}, ca_file)
        if bare.status == 0:
            return _conclude(finding, "unreachable", f"{bare.why}; check network and ca_file")
        finding.status_without_token = bare.status
        if bare.date is not None:
            finding.clock_skew_seconds = round(self._now.wall - bare.date)
        if token is None:
            return finding
        headers = {decision.header.value: f"Bearer {token.text}"}
        answer = probe.ask(destination, address, headers, ca_file)
        finding.status_with_token = answer.status
        return _judge(finding, destination, answer)

    def _token(self, finding: Finding, decision: Inject) -> Token | None:
        source = self._sources[decision.rule.credential]
        finding.credential = decision.rule.credential
        finding.credential_found = f"{source.kind}: {source.found}"
        finding.audience = decision.audience
        try:
            token = accept(source.fetch(decision.audience), decision.audience, self._now, 0.5)
        except SidecarError as error:
            _conclude(finding, "no_token", error.message)
            return None
        if decision.audience:
            claims = unverified_claims(token.text)
            finding.identity = str(claims.get("email") or claims.get("sub") or "")
            finding.expires_in_seconds = round(seconds_left(token, self._now))
        return token

    def _through(self, finding: Finding, decision: Inject, sidecar: str) -> Finding:
        destination = parse_authority(decision.authority)
        answer = probe.ask_through(sidecar, destination)
        finding.status_with_token = answer.status
        finding.audience = decision.audience
        said = _json_error(answer.why)
        if said:
            return _conclude(finding, said["error"], said["message"])
        if answer.status == 0:
            return _conclude(finding, "no_sidecar", f"{sidecar} gave {answer.why}; is it running?")
        return _judge(finding, destination, answer)


def _without_rule(finding: Finding, decision: object) -> Finding:
    if isinstance(decision, Discover):
        advice = "a short name: examine it inside Cloud Run, or set discovery's project_number"
        return _conclude(finding, "short_name", advice)
    if isinstance(decision, Deny):
        return _conclude(finding, decision.code.word, decision.message)
    return _conclude(
        finding, "no_rule", "no rule matches, so no token is sent: add it to destinations"
    )


def _judge(finding: Finding, destination: Destination, answer: probe.Answer) -> Finding:
    skew = finding.clock_skew_seconds
    if answer.status == 401:
        off = skew is not None and abs(skew) > TOLERATED_SKEW_SECONDS
        why = f"this machine's clock is off by {skew} s" if off else "its audience is not accepted"
        advice = (
            f"the token was refused (401): most likely {why}; the audience sent is "
            f"{finding.audience or 'none'}, set another with `audience` in the destination's rule"
        )
        return _conclude(finding, "token_refused", advice)
    if answer.status == 403:
        who = finding.identity or "the sidecar's identity"
        grant = _grant(finding.identity, destination)
        advice = f"{who} lacks run.invoker on {destination.host}; grant it with: {grant}"
        return _conclude(finding, "permission_missing", advice)
    if finding.status_without_token is not None and finding.status_without_token < 400:
        return _conclude(finding, "public", "it answers without a token, too")
    if answer.status == 0:
        return _conclude(finding, "unreachable", answer.why)
    return _conclude(finding, "reachable", f"it answers {answer.status} with the token")


def _grant(identity: str, destination: Destination) -> str:
    """Return the command that grants the permission, with what the host tells of the service."""
    label, _, rest = destination.host.partition(".")
    name, _, number = label.rpartition("---")[2].rpartition("-")
    region = rest.removesuffix(".run.app")
    known = number.isdecimal() and region != rest
    service, place = (name, region) if known else ("SERVICE", "REGION")
    kind = (
        "user" if identity and not identity.endswith(".gserviceaccount.com") else "serviceAccount"
    )
    return (
        f"gcloud run services add-iam-policy-binding {service} --region={place} "
        f"--member={kind}:{identity or 'EMAIL'} --role=roles/run.invoker"
    )


def _conclude(finding: Finding, verdict: str, advice: str) -> Finding:
    finding.verdict, finding.advice = verdict, advice
    return finding


def _json_error(text: str) -> dict[str, str]:
    """Return the sidecar's own error body, or nothing if the answer is somebody else's."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    good = isinstance(found, dict) and {"error", "message", "destination"} == set(found)
    return found if good else {}


def as_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list."""
    return json.dumps([asdict(finding) for finding in findings])


def as_text(finding: Finding) -> str:
    """Lay one finding out for a terminal."""
    facts: dict[str, Any] = {
        name.replace("_", " "): value
        for name, value in asdict(finding).items()
        if name not in ("destination", "verdict", "advice") and value not in (None, "", [])
    }
    lines = [f"{finding.destination}: {finding.verdict}", f"  {finding.advice}"]
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"    {name}: {shown}")
    return "\n".join(lines)
