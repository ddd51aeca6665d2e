"""Short names of Cloud Run services: which hosts are one, and the URL that each stands for (pure).

The deterministic URL is https://SERVICE-PROJECTNUMBER.REGION.run.app (Cloud Run documentation,
"Deterministic URL"), where the first label fits 63 characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ext_authz.destination import Destination
from ext_authz.errors import BadDestinationError

MAX_LABEL_LENGTH = 63  # RFC 1035 section 2.3.4
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
REGION = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}", re.ASCII)
_CLUSTER_SUFFIX = ".svc.cluster.local"  # NAME.NAMESPACE before it, as Kubernetes names services
_DEFAULT_PORTS = (None, 80, 443)


@dataclass(frozen=True, slots=True)
class Project:
    """The project that short names belong to: its number, and the region of this service."""

    number: str
    region: str


class ShortName(NamedTuple):
    """A service's name, and a region where the name has one."""

    name: str
    region: str | None = None


def short_name(destination: Destination) -> ShortName | None:
    """Return the short name that a destination is, or None if it is a host like any other.

    NAME and NAME.REGION count only on the default ports: another port is no Cloud Run service.
    """
    if destination.is_address or destination.host == "localhost":
        return None
    host = destination.host
    if host.endswith(_CLUSTER_SUFFIX):
        name, _, namespace = host.removesuffix(_CLUSTER_SUFFIX).partition(".")
        return ShortName(name) if _NAME.fullmatch(name) and _NAME.fullmatch(namespace) else None
    name, _, region = host.partition(".")
    if destination.port not in _DEFAULT_PORTS or not _NAME.fullmatch(name):
        return None
    if region and not REGION.fullmatch(region):
        return None
    return ShortName(name, region or None)


def deterministic(short: ShortName, project: Project) -> Destination:
    """Return the destination that a short name stands for.

    Raises BadDestinationError where the label would be too long: Cloud Run then has only the URL
    with a hash, which cannot be computed.
    """
    label = f"{short.name}-{project.number}"
    if len(label) > MAX_LABEL_LENGTH:
        raise BadDestinationError(
            f"{short.name} has no deterministic URL: expected {label} to have at most "
            f"{MAX_LABEL_LENGTH} characters, got {len(label)}; give its URL under services"
        )
    return Destination(f"{label}.{short.region or project.region}.run.app")
