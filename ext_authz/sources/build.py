"""Makes the sources that the settings name: the one place that knows every kind of credential."""

from __future__ import annotations

from collections.abc import Callable

from ext_authz.errors import ConfigError, Problem, SourceError
from ext_authz.settings import (
    AutoCredential,
    Credential,
    GcloudCredential,
    ImpersonatedCredential,
    KeyCredential,
    MetadataCredential,
    NamedCredential,
    NoCredential,
    Settings,
    StaticCredential,
    WorkloadCredential,
)
from ext_authz.sources import AccessTokenSource, IdentitySource, Source
from ext_authz.sources.default import VARIABLE, default_source
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.gcloud import GcloudSource
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.metadata import MetadataSource
from ext_authz.sources.secret_files import read_json
from ext_authz.sources.service_account import ServiceAccountSource
from ext_authz.sources.static_token import StaticSource
from ext_authz.sources.workload_identity import workload_source
from ext_authz.tokens import Fetched

_Identity = (
    AutoCredential
    | MetadataCredential
    | GcloudCredential
    | KeyCredential
    | WorkloadCredential
    | ImpersonatedCredential
)


class NoSource:
    """`none`: never has a token."""

    kind = "none"
    found = "the configuration"
    note = ""

    def fetch(self, audience: str) -> Fetched:
        """Raise SourceError: that is its purpose."""
        sentence = "the credential is set to none; name another one in the destination's rule"
        raise SourceError(sentence, code="no_credential", permanent=True)


def load_all(
    read: Callable[[], tuple[Settings, list[Problem]]],
) -> tuple[Settings, dict[str, Source]]:
    """Return the settings and a source per credential that is configured or used.

    Raises ConfigError with every problem of both, so that a start or a reload fails as a whole.
    """
    settings, problems = read()
    used = {rule.credential for rule in settings.rules}
    sources: dict[str, Source] = {}
    for name, named in settings.credentials.items():
        if name not in used and named.line is None:
            continue  # the built-in default, which no rule needs
        try:
            sources[name] = build_source(named.credential, settings)
        except SourceError as error:
            problems.append(_problem(named, error))
    problems += _interception_problems(settings)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return settings, sources


def build_source(credential: Credential, settings: Settings) -> Source:
    """Return the source of one credential. Raises SourceError."""
    match credential:
        case StaticCredential():
            return StaticSource(credential.secret)
        case NoCredential():
            return NoSource()
        case _:
            return _identity(credential, settings)


def _identity(credential: _Identity, settings: Settings) -> IdentitySource:
    guard = EndpointGuard(settings.trusted_endpoints)
    match credential:
        case AutoCredential():
            return default_source(credential, settings.metadata_host, guard)
        case MetadataCredential():
            return MetadataSource(settings.metadata_host)
        case GcloudCredential():
            return GcloudSource(credential.program)
        case KeyCredential():
            info = read_json(credential.secret, "bad_key_file")
            return ServiceAccountSource(info, str(credential.secret), guard)
        case WorkloadCredential():
            return workload_source(
                read_json(credential.secret, "bad_federation_file"),
                str(credential.secret),
                guard,
                email=credential.email,
                iam_endpoint=credential.iam_endpoint,
                allow_executables=credential.allow_executables,
            )
        case ImpersonatedCredential():
            return _impersonation(credential, settings)


def _impersonation(credential: ImpersonatedCredential, settings: Settings) -> IdentitySource:
    inner = credential.source
    if isinstance(inner, StaticCredential | NoCredential):
        raise AssertionError("config_credentials refuses these as a source")
    source: AccessTokenSource = _identity(inner, settings)
    target = Target(credential.email, credential.delegates)
    found = f"{credential.email} by credential {credential.source_name!r}: {source.kind}"
    return ImpersonationSource(
        source, target, credential.iam_endpoint, found=f"{found} ({source.found})"
    )


def _problem(named: NamedCredential, error: SourceError) -> Problem:
    if isinstance(named.credential, AutoCredential) and named.credential.key_file is not None:
        return Problem(error.message, VARIABLE)
    return Problem(error.message, f"credentials.{named.name}", named.file, named.line)


def _interception_problems(settings: Settings) -> list[Problem]:
    if settings.interception is None:
        return []
    from ext_authz.local_ca import Authority  # a tenth of a second that others do not pay

    try:
        Authority(settings.interception.certificate, settings.interception.key)
    except SourceError as error:
        return [Problem(error.message, "intercept_https")]
    return []
