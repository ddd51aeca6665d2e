"""The commands: reads flags, calls the part that does the work, turns errors into exit statuses."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ext_authz import __version__, config, log
from ext_authz.errors import ConfigError, Problem, SidecarError, UsageError, printable
from ext_authz.flags import Parser, add_flags, fill_in
from ext_authz.settings import Settings

EXIT_FAILURE = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. Prints one sentence per error, never a traceback."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        handler, _ = _COMMANDS[options.command]
        return handler(options)
    except (UsageError, ConfigError) as error:
        return _say(error, EXIT_USAGE)
    except SidecarError as error:
        return _say(error, getattr(error, "exit_status", EXIT_FAILURE))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return EXIT_FAILURE


def _say(error: SidecarError, status: int) -> int:
    for line in str(error).splitlines():
        print(f"idtoken-sidecar: {line}", file=sys.stderr)
    return status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="idtoken-sidecar", description=__doc__)
    parser.add_argument("--version", action="version", version=f"idtoken-sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, (_, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_flags(command, name)
        _add_arguments(command, name)
    options = parser.parse_args(arguments)
    fill_in(options, options.command, config.environment())
    return options


def _add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name == "exec":
        command.add_argument("cmd", nargs=argparse.REMAINDER, metavar="-- CMD…")
    elif name == "token":
        command.add_argument("target", metavar="URL_OR_AUDIENCE")
        command.add_argument("--claims", action="store_true", help="print its claims as JSON")
    elif name == "explain":
        command.add_argument("target", metavar="URL")
        command.add_argument("--json", action="store_true", help="print JSON")
    elif name == "doctor":
        command.add_argument("urls", nargs="*", metavar="URL", help="instead of every rule's host")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--sidecar", metavar="URL", help="ask through this running sidecar")
    elif name == "ca":
        command.add_argument("action", choices=["init"], help="make a CA for intercept_https")
        command.add_argument("--directory", default=".", metavar="DIR", help="where it is put")
    elif name == "check-config":
        command.add_argument("file", metavar="FILE")


def _reader(options: argparse.Namespace) -> Callable[[], tuple[Settings, list[Problem]]]:
    path = Path(options.config) if options.config else None
    overrides = config.Overrides(
        upstream=options.upstream,
        refresh=getattr(options, "refresh", None),
        credential_cache=getattr(options, "credential_cache", None),
        other_destinations=options.other_destinations,
        ca_file=options.ca_file,
        allow_loopback=options.allow_loopback,
        dns_resolvers=getattr(options, "dns_resolvers", None),
    )
    return partial(config.read_settings, path, overrides, config.environment())


def _watched(options: argparse.Namespace) -> Callable[[Settings], Iterable[Path]]:
    own = [Path(options.config)] if options.config else []
    return lambda settings: [*own, *settings.files()]


def _service_options(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from ext_authz.listen import Address, parse_address, require_local
    from ext_authz.mutual_tls import mutual_tls
    from ext_authz.server import ServiceOptions

    _check_ports(options)
    listen = parse_address(options.listen, "--listen")
    tls = mutual_tls(
        getattr(options, "tls_certificate", None),
        getattr(options, "tls_key", None),
        getattr(options, "tls_client_ca", None),
        getattr(options, "allowed_clients", None),
    )
    require_local(listen, insecure=options.insecure_listen, has_tls=tls is not None)
    return ServiceOptions(listen, Address(options.status_address, options.status_port), tls)


def _sidecar(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from ext_authz.sidecar import Sidecar, SidecarOptions

    _check_envoy_flags(options)
    return Sidecar(
        SidecarOptions(
            service=_service_options(options),
            bind=options.bind,
            forward_port=options.forward_port,
            reverse_port=options.reverse_port,
            admin_port=options.admin_port,
            envoy=options.envoy,
            concurrency=options.concurrency,
            stop_delay=options.stop_delay,
            drain_seconds=options.drain_seconds,
            access_log=options.access_log,
            ready_file=Path(options.ready_file) if options.ready_file else None,
        ),
        _reader(options),
        _watched(options),
    )


def _check_ports(options: argparse.Namespace) -> None:
    taken: dict[int, str] = {}
    for name in ("forward_port", "reverse_port", "admin_port", "status_port"):
        port, flag = getattr(options, name, 0), f"--{name.replace('_', '-')}"
        if not 0 <= port <= 65535:
            raise UsageError(f"{flag}: expected 0 to 65535, got {port}")
        if port and port in taken:
            raise UsageError(f"{flag}: {port} is the port of {taken[port]} already")
        taken[port] = flag


def _check_envoy_flags(options: argparse.Namespace) -> None:
    if not 1 <= options.concurrency <= 256:
        raise UsageError(f"--concurrency: expected 1 to 256, got {options.concurrency}")
    try:
        ipaddress.ip_address(options.bind)
    except ValueError:
        raise UsageError(f"--bind: expected an IP address, got {printable(options.bind)}") from None


def _run(options: argparse.Namespace) -> int:
    from ext_authz import sidecar

    log.set_up(options.log_level or "info")

    async def start() -> int:
        return await sidecar.run(_sidecar(options))

    return asyncio.run(start())


def _exec(options: argparse.Namespace) -> int:
    from ext_authz import sidecar

    command = options.cmd[1:] if options.cmd[:1] == ["--"] else options.cmd
    if not command:
        raise UsageError("exec: expected a command after --")
    log.set_up(options.log_level or "error")

    async def start() -> int:
        return await sidecar.execute(_sidecar(options), command, config.environment())

    return asyncio.run(start())


def _serve(options: argparse.Namespace) -> int:
    from ext_authz.serve import serve
    from ext_authz.server import Service

    log.set_up(options.log_level or "info")
    ready_file = Path(options.ready_file) if options.ready_file else None

    async def start() -> int:
        service = Service(_service_options(options), _reader(options), _watched(options))
        return await serve(service, options.stop_delay, options.drain_seconds, ready_file)

    return asyncio.run(start())


def _token(options: argparse.Namespace) -> int:
    from ext_authz.oneshot import fetch_token
    from ext_authz.tokens import unverified_claims

    log.set_up("error")
    token = fetch_token(options.target, _settings(options))
    print(json.dumps(unverified_claims(token.text)) if options.claims else token.text)
    return 0


def _explain(options: argparse.Namespace) -> int:
    from ext_authz.explain import as_text, explain
    from ext_authz.sources.build import load_all

    settings, sources = load_all(_reader(options))
    found = explain(options.target, settings, sources)
    print(json.dumps(found) if options.json else as_text(found))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from ext_authz.clock import system_clock
    from ext_authz.doctor import Doctor, as_json, as_text
    from ext_authz.sources.build import load_all

    log.set_up("error")
    settings, sources = load_all(_reader(options))
    doctor = Doctor(settings, sources, system_clock())
    sidecar = _sidecar_address(options.sidecar) if options.sidecar else ""
    findings = [doctor.examine(target, sidecar) for target in doctor.targets(options.urls)]
    print(as_json(findings) if options.json else "\n\n".join(map(as_text, findings)))
    return 0 if all(finding.is_good for finding in findings) else EXIT_FAILURE


def _sidecar_address(url: str) -> str:
    from ext_authz.destination import parse_authority
    from ext_authz.errors import BadDestinationError
    from ext_authz.explain import authority_of

    try:
        authority = authority_of(url)
        parse_authority(authority)
    except (BadDestinationError, UsageError):
        authority = ""
    if not authority or url.startswith("https:"):
        raise UsageError("--sidecar: expected a URL such as http://127.0.0.1:8000")
    return authority


def _ca(options: argparse.Namespace) -> int:
    from ext_authz import local_ca

    rules = _settings(options).rules
    certificate, key = local_ca.init(Path(options.directory), rules)
    print(f"{certificate}: a CA for {', '.join(sorted({rule.host for rule in rules}))} only")
    print(f"{key}: its key; keep it from everybody but the sidecar")
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from ext_authz.sources.build import load_all

    read = partial(
        config.read_settings, Path(options.file), config.Overrides(), config.environment()
    )
    settings, _ = load_all(read)
    print(f"{options.file}: good, {len(settings.rules)} destination rules")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from ext_authz.demo import demo

    return demo()


def _settings(options: argparse.Namespace) -> Settings:
    settings, problems = _reader(options)()
    if problems:
        raise ConfigError(problems)
    return settings


_COMMANDS: Mapping[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "run": (_run, "start Envoy and the service together"),
    "exec": (_exec, "the same around one command: exec [flags] -- CMD…"),
    "serve": (_serve, "the ext_authz service alone, for an Envoy that runs elsewhere"),
    "token": (_token, "print the token for a URL or an audience"),
    "explain": (_explain, "say what would happen to a request, without sending it"),
    "check-config": (_check_config, "check a configuration file and report every problem"),
    "doctor": (_doctor, "say of each destination whether requests get through, and if not, why"),
    "ca": (_ca, "ca init: make a local CA for intercept_https, limited to the rules' names"),
    "demo": (_demo, "the whole story on this machine, without any cloud"),
}
