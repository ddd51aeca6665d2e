"""The only wiring: builds sources, cache and services, runs their tasks, drains and stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ext_authz import health, log, refresh
from ext_authz.check_service import SERVICE_NAME, CheckService
from ext_authz.clock import Clock, system_clock
from ext_authz.discovery import ProjectFinder
from ext_authz.errors import ConfigError, Problem, UsageError
from ext_authz.listen import Address
from ext_authz.metrics import CONTENT_TYPE, Metrics
from ext_authz.mutual_tls import MutualTls
from ext_authz.policy import Policy
from ext_authz.prewarm import prewarm
from ext_authz.reflection import LazyReflection
from ext_authz.reload import Signature, Watcher, signature
from ext_authz.rpc import Methods, UnaryCall
from ext_authz.rpc_server import RpcServer
from ext_authz.settings import Credential, Settings, files_of
from ext_authz.sidecar_service import SidecarService
from ext_authz.sources import Source
from ext_authz.sources.build import load_all
from ext_authz.sources.worker import SourceRunner
from ext_authz.status_server import Page, Pages, StatusServer, text_page
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import TokenKey

if TYPE_CHECKING:
    from ext_authz.interception import SecretService

_ONLY_AT_START = ("allow_loopback", "ca_file", "dns_resolvers", "interception", "refresh_ahead")


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Where the service listens."""

    listen: Address
    status: Address
    tls: MutualTls | None = None


class Service:
    """The ext_authz service with everything that it needs. Belongs to one event loop.

    `read` reads the settings anew, with their problems; `watched` names the files whose change
    calls for that.
    """

    def __init__(
        self,
        options: ServiceOptions,
        read: Callable[[], tuple[Settings, list[Problem]]],
        watched: Callable[[Settings], Iterable[Path]],
        *,
        clock: Clock = system_clock,
    ) -> None:
        """Raises ConfigError if the settings or their credentials cannot be used."""
        self._options = options
        self._read = read
        self.settings, sources = load_all(read)
        self._sources = SourceRunner(sources)
        self._identities = _identities(self.settings)
        self.metrics = Metrics()
        self._tokens = TokenCache(self._sources.fetch, clock=clock, on_fetch=self._fetched)
        self.metrics.watch(self._tokens, clock)
        self._check = CheckService(
            self.settings.policy(),
            self._tokens,
            self.metrics.on_check,
            worker_cache=self.settings.worker_cache,
            project=ProjectFinder(self._look_up_project, clock).find,
            clock=clock,
        )
        self._feedback = SidecarService(self.settings.policy(), self._tokens)
        self._secrets = self._secret_service()
        self._watcher = Watcher(lambda: watched(self.settings), self.reload)
        self._not_warm: dict[TokenKey, str] = {}
        self._health = health.Health([SERVICE_NAME])
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self.listen = options.listen
        self.status = options.status

    async def start(self) -> None:
        """Listen and answer. Raises StartError if an address is taken."""
        for named in self._sources.sources.items():
            _log_source(*named)
        tls = self._options.tls
        self._server = RpcServer(self._methods(tls.guard if tls else lambda call: call))
        self.listen = await self._server.listen(
            self._options.listen, tls.context() if tls else None
        )
        status = self._options.status
        self._status_server = StatusServer(status.host, status.port, self._pages())
        self.status = Address(status.host, self._status_server.port)
        self._status_server.start()
        self._started = True
        ahead = self.settings.refresh_ahead
        self._spawn(
            refresh.keep_fresh(self._tokens) if ahead else refresh.forget_idle(self._tokens)
        )
        self._spawn(self._watcher.watch())
        self._warming = asyncio.get_running_loop().create_task(self._warm(), name="prewarm")

    async def ready(self) -> None:
        """Wait until prewarming is over, well or not, and tell the world that we serve."""
        await self._warming
        self._health.tell(serving=True)

    async def _warm(self) -> None:
        wanted = set(self.settings.prewarm)
        rules = [rule for rule in self.settings.rules if rule.match in wanted]
        self._not_warm = await prewarm(rules, self._tokens)

    def _look_up_project(self) -> tuple[str, str]:
        from ext_authz.sources.metadata import project_number_and_region

        return project_number_and_region(self.settings.metadata_host)

    def _methods(self, guard: Callable[[UnaryCall], UnaryCall]) -> Methods:
        return {
            **self._check.methods(guard),
            **self._feedback.methods(guard),
            **self._health.methods(),
            **LazyReflection((SERVICE_NAME, health.SERVICE_NAME)).methods(),
            **(self._secrets.methods() if self._secrets else {}),
        }

    def _secret_service(self) -> SecretService | None:
        interception = self.settings.interception
        if interception is None:
            return None
        if not self._options.listen.is_local:
            raise UsageError("intercept_https hands out private keys: expected a loopback --listen")
        from ext_authz.interception import SecretService  # half a second that others do not pay
        from ext_authz.local_ca import Authority

        authority = Authority(interception.certificate, interception.key)
        return SecretService(authority, self._policy)

    def _policy(self) -> Policy:
        return self.settings.policy()

    def reload(self) -> None:
        """Take the configuration anew; if it is broken keep the old one and say so."""
        try:
            settings, sources = load_all(self._read)
        except ConfigError as error:
            self.metrics.on_reload("refused")
            for problem in error.problems:
                log.error(
                    "the new configuration was refused, the old one stays: " + problem.message,
                    code=error.code,
                    file=problem.file,
                    line=problem.line,
                    key=problem.key,
                )
            return
        settings = self._without_late_changes(settings)
        before, self._identities = self._identities, _identities(settings)
        self.settings, self._sources.sources = settings, sources
        self._tokens.retain(
            lambda key: before.get(key.credential) == self._identities.get(key.credential)
        )
        self._check.use(settings.policy(), worker_cache=settings.worker_cache)
        self._feedback.use(settings.policy())
        self.metrics.on_reload("ok")
        log.info("the new configuration is in effect")

    def _without_late_changes(self, settings: Settings) -> Settings:
        """Keep what Envoy was started with: those keys take effect at the next start."""
        for name in _ONLY_AT_START:
            if getattr(settings, name) != getattr(self.settings, name):
                log.warning("this change takes effect at the next start", key=name)
        return replace(settings, **{name: getattr(self.settings, name) for name in _ONLY_AT_START})

    async def stop(self, drain_seconds: float) -> None:
        """Say that we drain, let running Checks end within `drain_seconds`, then stop."""
        if not self._started:
            self._sources.close()
            return
        await self.drain()
        await self._server.stop(drain_seconds)
        for task in (*self._tasks, self._warming):
            task.cancel()
        await self._tokens.close()
        await asyncio.gather(*self._tasks, self._warming, return_exceptions=True)
        self._sources.close()
        self._status_server.stop()

    async def drain(self, delay_seconds: float = 0.0) -> None:
        """Flip health and readiness, and go on answering for `delay_seconds`.

        Where everything gets SIGTERM at once (Cloud Run, a pod), the app still has requests to end.
        """
        self._health.tell(serving=False)
        await asyncio.sleep(delay_seconds)

    async def failed(self) -> str:
        """Wait until a task dies that should live for ever, and name it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).get_name()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    def _fetched(self, key: TokenKey, outcome: str) -> None:
        self.metrics.on_fetch(key, outcome)
        if outcome == "ok":
            self._not_warm.pop(key, None)
        tell = log.info if outcome == "ok" else log.warning
        tell("token fetch", credential=key.credential, audience=key.audience, outcome=outcome)

    def _pages(self) -> Pages:
        return {
            "/healthz": lambda: text_page(200, "ok"),
            "/readyz": self._readyz,
            "/metrics": lambda: Page(200, CONTENT_TYPE, self.metrics.exposition()),
        }

    def _readyz(self) -> Page:
        if self._health.is_serving:
            failed = [f"prewarm failed: {why}" for why in self._not_warm.values()]
            return text_page(200, "\n".join(["ready", *failed]))
        return text_page(503, "not ready: starting or draining")


def _log_source(name: str, source: Source) -> None:
    log.info("credential", credential=name, kind=source.kind, found=source.found)


def _identities(settings: Settings) -> dict[str, tuple[Credential, Signature]]:
    """Return what each credential is; a token is kept over a reload only while this is the same."""
    return {
        name: (named.credential, signature(files_of(named.credential)))
        for name, named in settings.credentials.items()
    }
