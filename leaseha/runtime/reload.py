"""`leaseha reload`, the running program's side: try the new one, make time, hand everything over, become it.

Nothing is changed until the new program, in a process of its own, has loaded all that it needs and the configuration.
Then the session's ttl is raised to `ttl_max` and proven, so that all deadlines are far enough away; what the new
configuration has no place for is let go; and at an instant without anything under way the state is frozen, and this
process replaced by execve. If that fails, the old program goes on; if the new one fails, the guard sees its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaseha import __version__, scheduling
from leaseha.adapters import clock
from leaseha.config import Config
from leaseha.core import events, handover
from leaseha.core.values import NS_PER_MS, NS_PER_S
from leaseha.errors import LeasehaError, OperationalError, RepositoryError, UsageError, fault
from leaseha.runtime import trial
from leaseha.runtime.handover import FORMAT, Heard, RepositoryTold, Told, program, replace_program
from leaseha.runtime.reply import Reply

if TYPE_CHECKING:
    from leaseha.core.state import NodeState
    from leaseha.runtime.fencing import Fencing
    from leaseha.runtime.guarding import Guarding
    from leaseha.runtime.pump import Pump
    from leaseha.runtime.repositories import WarmRepository
    from leaseha.runtime.service import Service

TRIAL_S: Final = 60.0
"""How long the new program may take to load, on a machine that is busy."""
CALM_S: Final = 15.0
"""How long an instant without anything under way is waited for."""
IDLE_CALM_S: Final = 2.0
"""The same where nothing is held: then the session need not go on."""
LET_GO_S: Final = 15.0
"""How long, beside its drain, a lease may take to be let go that the new configuration has no place for."""
SETTLE_S: Final = 1.0
LOAD_PART: Final = 0.6
"""The most of `ttl_max` that loading the program may take."""
LEFT_PART: Final = 0.8
"""The least of `ttl_max` that must be left to every deadline when the program is replaced."""
_PAUSE_S: Final = 0.005

_log = logging.getLogger("leaseha.agent")


@dataclass(frozen=True, slots=True)
class Process:
    """What of the running program is handed over."""

    config: Config
    path: Path
    pump: Pump
    guard: Guarding
    fencing: Fencing
    services: Mapping[str, Service]
    repositories: Mapping[str, WarmRepository]
    told_all: Callable[[], bool]
    """Log, traces and history have been written out."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What the new program says of itself and its configuration."""

    version: str
    text: str
    constants: Mapping[str, str]
    leases: Mapping[str, Mapping[str, Any]]
    fence: str
    """Why no kernel fence can stand; empty if one can."""
    etcd: str
    """Why etcd does not answer; empty if it does."""
    took_ns: int
    cluster_id: int = 0
    """Of the etcd that answers; 0: none does."""


def check(
    tried: Tried, config: Config, *, upgrade: bool, held: bool, fenced: bool, cluster_id: int = 0
) -> None:
    """Whether the program that runs under `config` can become this one. Raises `UsageError`, `OperationalError`.

    `held`: it serves something; `fenced`: the kernel fence of milliseconds stands; `cluster_id`: of its etcd.
    """
    changed = [
        f"{key} = {tried.constants.get(key, '')}: this agent runs with {value}, and cannot change that while it lives: "
        "restart it (systemctl restart leaseha)"
        for key, value in trial.constants(config).items()
        if tried.constants.get(key) != value
    ]
    if changed:
        raise UsageError("\n".join(changed))
    if tried.cluster_id and cluster_id and tried.cluster_id != cluster_id:
        # To the core another cluster is an etcd that went back in time: it would drop everything.
        raise UsageError(
            "etcd.endpoints are those of another etcd, which knows nothing of what is held here: stop the agents of "
            "all nodes, and start them with the new configuration"
        )
    if tried.version != __version__ and not upgrade:
        raise OperationalError(
            f"leaseha {tried.version} is installed, {__version__} runs: `leaseha reload --exec` upgrades"
        )
    most_ms = int(config.session.ttl_max_ns * LOAD_PART) // NS_PER_MS
    took_ms = tried.took_ns // NS_PER_MS
    if took_ms > most_ms and held:
        raise OperationalError(
            f"the program took {took_ms} ms to load, and session.ttl_max leaves it {most_ms} ms: try again when the "
            "machine is less busy"
        )
    if tried.fence and fenced:
        raise OperationalError(f"the kernel fence that stands could not be renewed any more: {tried.fence}")
    if tried.etcd and held:
        raise OperationalError(f"etcd does not answer under the new configuration: {tried.etcd}")


class Reload:
    """One at a time; `run` returns only when the program was not replaced."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._config = process.config
        self.running = False

    def may_begin(self, reply: Reply, config: str) -> bool:
        """False: refused. `config` is the file that whoever asks means; empty: that of the agent."""
        path, why, exit_code = self._process.path, "", 1
        if config and Path(config) != path.resolve():
            why, exit_code = f"the agent runs with {path}, not with {config}", UsageError.exit_code
        elif self.running:
            why = "a reload is under way already"
        else:
            _log.info("reload asked for: trying the program and its configuration")
        if why:
            reply.refuse(why, exit_code)
        return not why

    async def run(self, reply: Reply, *, upgrade: bool) -> None:
        """Become the new program, or tell `reply` (and the log) why not."""
        self.running = True
        retired: Sequence[str] = ()
        try:
            tried = await _tried(self._process.path)
            self.judge(tried, upgrade=upgrade)
            retired = self._without_place(tried)
            await self._let_go(retired)
            await self._make_time()
            with Heard() as heard:
                self._process.pump.freeze()
                self.judge_again(tried, upgrade=upgrade)
                await self._replace(tried, reply, heard, upgrade=upgrade)
        except Exception as error:  # noqa: BLE001 - whatever it is, the program that runs goes on, and is not left frozen
            expected = isinstance(error, LeasehaError | OSError)
            why = str(error) if expected else fault(error)
            _log.error("not reloaded, and nothing is changed: %s", why)
            self._resume(retired)
            reply.refuse(why, error.exit_code if isinstance(error, LeasehaError) else 1)
        finally:
            self.running = False

    # --- before anything is changed -----------------------------------------------------------------------

    def _state(self) -> NodeState:
        return self._process.pump.state

    def _held(self) -> list[str]:
        return [name for name, state in self._state().leases.items() if state.mine]

    def judge(self, tried: Tried, *, upgrade: bool) -> None:
        """`check`, of the node as it is now."""
        held, fenced = bool(self._held()), self._process.fencing.stands
        cluster_id = self._state().head.cluster_id
        check(tried, self._config, upgrade=upgrade, held=held, fenced=fenced, cluster_id=cluster_id)

    def judge_again(self, tried: Tried, *, upgrade: bool) -> None:
        """The same when all that has no place was let go: a lease may have come meanwhile."""
        self.judge(tried, upgrade=upgrade)
        if came := [lease for lease in self._without_place(tried) if lease in self._held()]:
            raise OperationalError(f"{', '.join(came)} came here meanwhile, to be let go first: try again")

    def _without_place(self, tried: Tried) -> list[str]:
        """Leases that the new program cannot go on with: gone, on another interface, or with a VIP less."""
        found = []
        for name, service in self._process.services.items():
            new = tried.leases.get(name)
            vips = {str(ip) for ip in service.parts.vips}
            kept = new is not None and vips <= set(new["vips"]) and new["interface"] == _interface(service)
            if not kept and (new is None or not handover.standing_by(self._state(), name)):
                found.append(name)
        return found

    async def _let_go(self, leases: Sequence[str]) -> None:
        for name in leases:
            why = "the new configuration has another place for it, or none"
            self._process.pump.give(events.Retired(clock.now(), name, why))
        drain_ns = max((self._config.lease(name).drain_timeout_ns for name in leases), default=0)

        def gone() -> bool:
            return all(handover.standing_by(self._state(), name) for name in leases)

        if not await _until(gone, LET_GO_S + drain_ns / NS_PER_S):
            raise OperationalError(f"{', '.join(leases)} could not be let go: the warnings before say why")

    # --- time, and an instant -----------------------------------------------------------------------------

    async def _make_time(self) -> None:
        """All deadlines far enough away, nothing under way, and everything said. Raises `OperationalError`."""
        ttl_max_ns = self._config.session.ttl_max_ns
        least_ns = int(ttl_max_ns * LEFT_PART)

        def ready() -> bool:
            now, state = clock.now(), self._state()
            left_ns = handover.left_ns(state, now)
            enough = left_ns is None or left_ns >= least_ns
            if not state.session.pending and not enough:
                # Each is a renewal that carries the longer ttl, and compares another slice of the claims.
                self._process.pump.give(events.TtlChanged(now, ttl_max_ns))
                return False
            return enough and not handover.not_calm(state) and self._process.told_all()

        patience_s = CALM_S if self._held() else IDLE_CALM_S
        if not await _until(ready, patience_s) and not handover.nothing_held(self._state()):
            why = handover.not_calm(self._state()) or (
                "its deadlines could not be moved far enough"
                if self._process.told_all()
                else "log and history could not be written out"
            )
            raise OperationalError(f"no moment to be replaced in within {patience_s:g} s: {why}")

    async def _replace(self, tried: Tried, reply: Reply, heard: Heard, *, upgrade: bool) -> None:
        """From here on nothing is decided. Raises `LeasehaError`, OSError when the program was not replaced."""
        process, state = self._process, self._state()
        frozen_at = clock.now()
        core = handover.take(state)
        for service in process.services.values():
            if not await service.settle(
                SETTLE_S
            ):  # the first that waits in vain ends it: nothing is decided meanwhile
                raise OperationalError("the kernel does not answer")
        repositories = await self._repositories()
        left_ns = handover.left_ns(state, clock.now())
        if left_ns is not None and left_ns < self._config.session.ttl_max_ns * LOAD_PART:
            raise OperationalError(f"only {left_ns // NS_PER_MS} ms are left to the deadline")
        told = Told(
            version=__version__,
            text=tried.text,
            frozen_at=frozen_at,
            upgrade=upgrade,
            core=core,
            vips={
                one.lease: [str(ip) for ip in process.services[one.lease].parts.vips] for one in core.held()
            },
            lock_fd=process.guard.lock_fd,
            guard=process.guard.hand_over(),
            repositories=repositories,
            reply_fd=reply.fd,
        )
        replace_program(told, process.path, heard)

    async def _repositories(self) -> tuple[RepositoryTold, ...]:
        found: dict[str, RepositoryTold | None] = {}

        def quiet() -> bool:
            for lease, repository in self._process.repositories.items():
                if lease not in found:
                    with contextlib.suppress(RepositoryError):
                        found[lease] = repository.hand_over(self._process.services[lease].parts.port)
            return len(found) == len(self._process.repositories)

        if not await _until(quiet, SETTLE_S):
            raise OperationalError("a repository process does not answer")
        return tuple(one for one in found.values() if one is not None)

    def _resume(self, retired: Sequence[str]) -> None:
        """The program that runs goes on, with its own ttl."""
        for repository in self._process.repositories.values():
            repository.go_on()
        pump = self._process.pump
        pump.thaw()
        pump.give(events.TtlChanged(clock.now(), self._config.session.ttl_ns))
        for name in retired:
            pump.give(events.Retired(clock.now(), name, ""))


def _interface(service: Service) -> str:
    return service.parts.binder.interface


async def _until(fact: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came to be true within the time."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not fact():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(_PAUSE_S)
    return True


async def _tried(path: Path) -> Tried:
    """The new program's word. Raises `UsageError` for a configuration that it refuses, `OperationalError`, OSError."""
    command, environment = program("leaseha.runtime.trial", "--config", str(path))
    began = clock.now()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, limit=1 << 24
    )
    try:
        async with asyncio.timeout(TRIAL_S):
            if process.stdout is None:
                raise OperationalError("the installed program has no output")
            first = await process.stdout.readline()
            took_ns = clock.now().boot_ns - began.boot_ns
            rest, said = await process.communicate()
    except TimeoutError:
        raise OperationalError(f"the installed program did not load within {TRIAL_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        text = said.decode(errors="replace").strip()
        if process.returncode == UsageError.exit_code:
            raise UsageError(text)
        raise OperationalError(
            f"the installed program does not start: {text.splitlines()[-1] if text else ''}"
        )
    found = json.loads(first)
    if found["format"] != FORMAT:
        raise OperationalError(
            f"leaseha {found['version']} cannot go on where {__version__} is: restart the agent"
        )
    world = json.loads(rest)
    if scheduling.rank() == scheduling.REAL_TIME:
        # The trial is an ordinary process, and waits for others; what replaces this program does not.
        took_ns = found["cpu_ns"]
    return Tried(
        version=found["version"],
        text=found["text"],
        constants=found["constants"],
        leases=found["leases"],
        fence=world["fence"],
        etcd=world["etcd"],
        took_ns=took_ns,
        cluster_id=world["cluster_id"],
    )
