"""Every error that leaseha raises on purpose.

    LeasehaError                    has `exit_code`; its text is for a person, in one or a few lines
    ├── UsageError                  exit 2   the command line is wrong
    │   └── ConfigError             exit 2   the configuration is wrong; carries one Problem for each fault
    ├── OperationalError            exit 1   input was good, the world was not
    │   ├── StoreError                       etcd: unreachable, refused, or unfit to be used
    │   │   ├── StoreUnavailable             no answer in time; a write may have happened (outcome unknown)
    │   │   ├── StoreDenied                  etcd refused user, password or certificate
    │   │   └── StoreUnfit                   a version or setting of etcd that breaks the compares
    │   ├── VipError                         an address could not be bound, unbound or looked up
    │   ├── AnnounceError                    announcement frames could not be sent
    │   ├── FenceError                       no fence layer could be put in force
    │   ├── HealthError                      a check could not be run at all (not: it ran and failed)
    │   ├── ResourceError                    a resource did not start or stop in time
    │   ├── RepositoryError                  the repository's data directory or listener failed
    │   ├── AgentUnreachable                 no agent answers on its socket
    │   ├── AgentRunning                     another agent of this cluster and node runs on this host
    │   ├── SwitchoverFailed                 a planned move did not come to its end, and why
    │   ├── RecoverRefused                   a loss need not, or cannot, be accepted now
    │   ├── ClusterMismatch                  this node and the cluster disagree on ttl_max or a name
    │   └── LabError                         the lab could not build or drive its namespaces
    └── InvariantBroken             exit 1   a fault in leaseha itself: the holder stops holding

Nothing else may reach a person: the CLI prints an error's text, never a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class LeasehaError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class UsageError(LeasehaError):
    """The command line, or something that it names, is not what leaseha understands."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration. `str()` gives one line that names key, value and remedy."""

    key: str
    """Dotted path as in the file (`lease.backups.vips[1]`), or where the fault is if no key is to blame."""
    value: str
    """The offending value as a person would write it; empty when the key is missing. Never a secret."""
    remedy: str
    """What is wrong and what to write instead."""

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return " ".join(f"{self.key}{shown}: {self.remedy}".split())


class ConfigError(UsageError):
    """A configuration was refused; nothing was changed. All faults of a file are reported together.

    `key`, `value` and `remedy` are those of the first problem; `problems` has them all.
    `str()` is one line for each problem, after `source` if there is one.
    """

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        invariant(bool(self.problems), "a ConfigError names at least one problem")
        self.key = self.problems[0].key
        self.value = self.problems[0].value
        self.remedy = self.problems[0].remedy
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))

    @classmethod
    def single(cls, key: str, value: str, remedy: str, source: str = "") -> ConfigError:
        """An error with one problem."""
        return cls((Problem(key, value, remedy),), source)


class OperationalError(LeasehaError):
    """The input was good, but what was asked for did not happen."""


class StoreError(OperationalError):
    """etcd did not do what was asked."""


class StoreUnavailable(StoreError):
    """etcd gave no answer in time. A write that was on its way may be applied later still."""


class StoreDenied(StoreError):
    """etcd refused the user, the password or the certificate; repeating does not help."""


class StoreUnfit(StoreError):
    """A version or setting of etcd that breaks the protocol's compares (3.5.0 to 3.5.2, no fsync)."""


class VipError(OperationalError):
    """A VIP could not be bound, unbound or looked up."""


class AnnounceError(OperationalError):
    """Gratuitous ARP or unsolicited neighbour advertisements could not be sent."""


class FenceError(OperationalError):
    """No fence layer could be put in force; such a node must not hold."""


class HealthError(OperationalError):
    """A health check could not be run at all. One that ran and failed is a result, not an error."""


class ResourceError(OperationalError):
    """A resource did not start or stop within its time."""


class RepositoryError(OperationalError):
    """The repository's data directory or listener cannot be used."""


class AgentUnreachable(OperationalError):
    """No agent answers on its socket."""


class AgentRunning(OperationalError):
    """Another agent of this cluster and node runs on this host and keeps the lock."""


class SwitchoverFailed(OperationalError):
    """A planned move did not come to its end; the text says who holds now."""


class RecoverRefused(OperationalError):
    """Nothing was written: the lease is served, may be without a loss, or cannot be by the node that was named."""


class ClusterMismatch(OperationalError):
    """Node and cluster disagree on a constant of the cluster, or a second node has this name."""


class LabError(OperationalError):
    """The lab could not build or drive its namespaces on this machine."""


class InvariantBroken(LeasehaError):
    """Something that cannot be, is: a fault in leaseha. The agent stops holding before anything else."""


def fault(error: BaseException) -> str:
    """One line for an error that nobody foresaw: a fault in leaseha itself."""
    return f"fault in leaseha: {type(error).__name__}: {error}"


def invariant(condition: bool, message: str) -> None:
    """Like `assert`, but kept under `python -O`.

    Raises:
        InvariantBroken: `condition` is false; `message` says what should have been true.

    """
    if not condition:
        raise InvariantBroken(message)
