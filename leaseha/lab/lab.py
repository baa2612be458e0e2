"""The lab: nodes, etcd members, clients and an observer, each a host of its own, built in a tenth of a second.

See `leaseha.lab` for what can be done with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from leaseha.errors import LabError
from leaseha.lab import instruments
from leaseha.lab.etcd import EtcdCluster, find_etcd
from leaseha.lab.host import Host
from leaseha.lab.instruments import FOREVER_NS, ArpObserver, Instrument, NetlinkMonitor, Prober, Tool
from leaseha.lab.net import ETCD, ETCD_NETWORK, MAIN, MAIN_NETWORK, Network, Switch
from leaseha.lab.nodes import AgentNode, Table, merged
from leaseha.lab.sandbox import inside
from leaseha.lab.timeline import Overlap

NODES: Final = ("node1", "node2", "node3")
VIP: Final = "10.77.0.50/24"
VIP6: Final = "fd77::50/64"
LEASE: Final = "backups"
REPOSITORY_PORT: Final = 8000
_NODE, _ETCD, _CLIENT, _OBSERVER, _EXTRA = 11, 21, 101, 250, 1
R = TypeVar("R")
_counter = itertools.count(1)


class Lab:
    """A context manager: everything is there inside, and gone after, whatever happened.

    Args:
        nodes: names of the hosts on which agents can run.
        etcd_members: 0 to 3, each on a host of its own (`etcd1` ...), running when the lab is entered.
        etcd_on: instead, names of hosts on which one member each runs, and with which it dies: of nodes, or of
            hosts that are made for it (`("node1", "node2", "witness")`).
        etcd_folder: where the members keep their data, such as a folder on a disk; by default in memory.
        clients: number of client hosts (`client1` ...).
        vips: with prefix length, from 10.77.0.0/24 and fd77::/64.
        separate_etcd_network: nodes reach etcd over a second interface, which can be cut alone.
        extra_hosts: more hosts; the first gets 10.77.0.1, as a gateway to be pinged.
        replicate: the lease has a repository, each node a data directory of its own (`data`), and the holder keeps
            copies on the others.
        settings: laid over the configuration of every node; see `config_for`.
        etcd_election_ms, etcd_heartbeat_ms, etcd_options: etcd's defaults if not given.
        directory: for configurations, logs, recordings; kept. By default a temporary one, removed at the end.
        prefix: before the names of the namespaces; unique by default.

    Raises:
        LabError: the machine allows no namespaces, or has no etcd; the text names the cure.

    """

    def __init__(
        self,
        nodes: Sequence[str] = NODES,
        etcd_members: int = 1,
        clients: int = 1,
        vips: Sequence[str] = (VIP,),
        separate_etcd_network: bool = False,
        *,
        etcd_on: Sequence[str] = (),
        etcd_folder: Path | None = None,
        extra_hosts: Sequence[str] = (),
        replicate: bool = False,
        settings: Mapping[str, Any] | None = None,
        etcd_election_ms: int | None = None,
        etcd_heartbeat_ms: int | None = None,
        etcd_options: Sequence[str] = (),
        directory: Path | None = None,
        prefix: str | None = None,
    ) -> None:
        self.node_names = tuple(nodes)
        self.client_names = tuple(f"client{at}" for at in range(1, clients + 1))
        self.vips = tuple(vips)
        self.separate = separate_etcd_network
        self.replicate = replicate
        self.settings = dict(settings or {})
        self.hosts: dict[str, Host] = {}
        self.nodes: dict[str, AgentNode] = {}
        self._etcd_hosts = tuple(etcd_on) or tuple(f"etcd{at}" for at in range(1, etcd_members + 1))
        self._etcd_data = etcd_folder
        self._etcd_options = tuple(etcd_options)
        if etcd_election_ms is not None:
            self._etcd_options += (f"--election-timeout={etcd_election_ms}",)
        if etcd_heartbeat_ms is not None:
            self._etcd_options += (f"--heartbeat-interval={etcd_heartbeat_ms}",)
        self._extra = tuple(extra_hosts)
        self._kept = directory
        self._prefix = f"lab{os.getpid()}-{next(_counter)}-" if prefix is None else prefix
        self._stack = contextlib.ExitStack()
        self._measuring = contextlib.ExitStack()
        self._etcd: EtcdCluster | None = None
        self._prober: Prober | None = None
        self._direct: Prober | None = None
        self._service: Prober | None = None
        self._arp: ArpObserver | None = None
        self._monitor: NetlinkMonitor | None = None
        self._responder: Tool | None = None
        self.directory = Path()

    # Building and taking down

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        if self._etcd_hosts:
            find_etcd()  # before anything is built: the most likely thing to be missing
        self._make_directory()
        for name in self.node_names if self.replicate else ():
            self.data(name).mkdir(exist_ok=True)
        networks = (MAIN_NETWORK, ETCD_NETWORK) if self.separate else (MAIN_NETWORK,)
        switch = Switch(f"{self._prefix}switch", networks)
        self._stack.callback(switch.close)
        for name, number, plugged in self._planned(networks):
            host = Host(name, number, plugged, switch, self._prefix)
            self._stack.callback(host.close)
            self.hosts[name] = host
        if self._etcd_hosts:
            self._etcd = EtcdCluster(
                [self.hosts[name] for name in self._etcd_hosts],
                self._etcd_folder(),
                self.directory,
                network=ETCD if self.separate else MAIN,
                options=self._etcd_options,
            )
            self._stack.callback(self._etcd.kill)
            self._etcd.start()

    def _make_directory(self) -> None:
        if self._kept is not None:
            self._kept.mkdir(parents=True, exist_ok=True)
            self.directory = self._kept.resolve()
            return
        self.directory = Path(tempfile.mkdtemp(prefix="leaseha-lab-"))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def _etcd_folder(self) -> Path:
        """In memory where there is some, unless it is told: the disk of this machine is seldom what is looked at."""
        # mkdtemp keeps others out of it. In a sandbox /run is memory too, and goes with the sandbox.
        places = ("/run", "/dev/shm") if inside() else ("/dev/shm",)  # noqa: S108  (see above)
        memory = next((one for one in places if os.access(one, os.W_OK)), None)
        if self._etcd_data is not None:
            self._etcd_data.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="leaseha-etcd-", dir=self._etcd_data or memory))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _planned(self, networks: tuple[Network, ...]) -> Iterable[tuple[str, int, tuple[Network, ...]]]:
        """(name, number, networks) of each host."""
        for number, name in enumerate(self.node_names, start=_NODE):
            yield name, number, networks
        for number, name in enumerate(self._etcd_hosts, start=_ETCD):
            if name not in self.node_names:
                yield name, number, networks[-1:]
        for number, name in enumerate(self.client_names, start=_CLIENT):
            yield name, number, networks[:1]
        for number, name in enumerate(self._extra, start=_EXTRA):
            yield name, number, networks[:1]
        yield "observer", _OBSERVER, networks[:1]

    def close(self) -> None:
        """End every process of the lab and remove what it made."""
        try:
            self._measuring.close()
        finally:
            stack, self._stack = self._stack, contextlib.ExitStack()
            stack.close()
        self.hosts.clear()
        self.nodes.clear()

    # Hosts and faults

    def host(self, name: str) -> Host:
        """By name. Raises `LabError`."""
        if name not in self.hosts:
            raise LabError(f"no host {name}: there are {', '.join(self.hosts)}")
        return self.hosts[name]

    @property
    def client(self) -> Host:
        """The first client."""
        return self.host(self.client_names[0])

    @property
    def vip(self) -> str:
        """The first VIP, without its prefix length."""
        return self.vips[0].partition("/")[0]

    @property
    def etcd(self) -> EtcdCluster:
        """The etcd members. Raises `LabError` if the lab has none."""
        if self._etcd is None:
            raise LabError("this lab has no etcd")
        return self._etcd

    def cut_etcd_side(self, name: str) -> None:
        """Cut a node off from etcd alone, silently. Raises `LabError` unless etcd has a network of its own."""
        if not self.separate:
            raise LabError("etcd has no network of its own here: Lab(separate_etcd_network=True)")
        self.host(name).cut_silent(ETCD)

    def partition(self, *groups: Iterable[str]) -> None:
        """Hosts of different groups do not hear each other any more (carrier is kept); inside a group, and
        with hosts in no group, all goes on.
        """
        members = [[self.host(name) for name in group] for group in groups]
        for ours, theirs in itertools.permutations(members, 2):
            for one, other in itertools.product(ours, theirs):
                for network in {n.name for n in one.networks} & {n.name for n in other.networks}:
                    one.cut_from(other, network)

    def heal(self) -> None:
        """Take back all faults of all cables."""
        for host in self.hosts.values():
            if host.running:
                host.heal()

    def kill_host(self, name: str) -> None:
        """Power off: every process dead, addresses gone, carrier lost for nobody else."""
        self.host(name).power_off()

    def boot_host(self, name: str) -> None:
        """Power on, with nothing running; the instruments see it again."""
        host = self.host(name)
        host.boot()
        if self._responder is not None and self._monitor is not None and name in self.node_names:
            instruments.answer_on(self._responder, [host])
            instruments.watch_on(self._monitor, [host])

    # Agents

    def config_for(self, name: str, **overrides: Any) -> Table:
        """The configuration of a node: the lab's own, then `settings` of the lab, then these, table by table.
        None takes a key out: `config_for("node1", lease={"backups": {"failback": "off"}}, session=None)`.
        """
        host = self.host(name)
        priority = {node: 100 - 10 * at for at, node in enumerate(self.node_names)}
        base: Table = {
            "cluster": "lab",
            "runtime_dir": str(self.directory / f"{name}.run"),
            "state_dir": str(self.directory / f"{name}.state"),
            "node": {"name": name, "interface": "eth0", "address": host.ipv4},
            "etcd": {"endpoints": list(self._etcd.endpoints) if self._etcd is not None else []},
            "lease": {LEASE: {"vips": list(self.vips), "priority": priority}},
        }
        if self.replicate:
            repository = {"port": REPOSITORY_PORT, "path": str(self.data(name)), "replicate": True}
            base["lease"][LEASE]["repository"] = repository
        return merged(merged(base, self.settings), overrides)

    def data(self, name: str) -> Path:
        """With `replicate`: the data directory of a node."""
        return self.directory / f"{name}.data"

    def node(self, name: str, **overrides: Any) -> AgentNode:
        """The agent of a node, made with `config_for` at the first call; later overrides write it anew."""
        if name not in self.nodes:
            agent = AgentNode(name, self.host(name), self.directory, self.config_for(name, **overrides))
            self._stack.callback(agent.close)
            self.nodes[name] = agent
        elif overrides:
            self.nodes[name].configure(self.config_for(name, **overrides))
        return self.nodes[name]

    def start_node(self, name: str, *, env: Mapping[str, str] | None = None, **overrides: Any) -> AgentNode:
        """Start the agent of a node and return at once; `AgentNode.wait_ready` waits for it."""
        agent = self.node(name, **overrides)
        agent.start(env)
        return agent

    def start_nodes(self, *names: str, **overrides: Any) -> tuple[AgentNode, ...]:
        """Start these (default: all), then wait until each is ready."""
        agents = tuple(self.start_node(name, **overrides) for name in names or self.node_names)
        for agent in agents:
            agent.wait_ready()
        return agents

    # Measuring

    def measure(
        self,
        *,
        period_ms: float = 1.0,
        direct_ms: float = 4.0,
        arp_ms: float = 4.0,
        service_port: int | None = None,
        service_ms: float = 5.0,
    ) -> Self:
        """Start all instruments and wait until they measure: `prober`, `direct`, `arp`, `monitor`, and, with
        the port of an HTTP service on the first VIP, `service`.

        What they saw before, if they ran already, is dropped: a long campaign measures each run anew.
        """
        self._measuring.close()
        keep = self._measuring
        vips = [vip.partition("/")[0] for vip in self.vips]
        nodes = [self.host(name) for name in self.node_names]
        names = list(self.node_names)
        observer = self.host("observer")
        folder = self.directory
        self._responder = keep.enter_context(instruments.start_responder(folder / "responder.log"))
        self._monitor = self._stack.enter_context(
            instruments.start_monitor(names, vips, folder / "monitor.log")
        )
        running = [host for host in nodes if host.running]
        instruments.answer_on(self._responder, running)
        instruments.watch_on(self._monitor, running)
        log = folder / "prober.log"
        self._prober = instruments.start_prober(self.client, vips, names, log, period_ms)
        keep.callback(self._prober.stop)
        log = folder / "direct.log"
        self._direct = instruments.start_prober(observer, vips, names, log, direct_ms, direct=nodes)
        keep.callback(self._direct.stop)
        self._arp = instruments.start_arp_observer(observer, vips, nodes, folder / "arp.log", arp_ms)
        keep.callback(self._arp.stop)
        self._service = None
        if service_port is not None:
            log = folder / "service.log"
            self._service = instruments.start_service_prober(
                self.client, vips[0], service_port, log, service_ms
            )
            keep.callback(self._service.stop)
        for one in self._instruments():
            one.wait_ready()
        return self

    def _instruments(self) -> Iterable[Instrument]:
        service = () if self._service is None else (self._service,)
        return (self.monitor, self.prober, self.direct, self.arp, *service)

    @property
    def prober(self) -> Prober:
        """The client's view, each millisecond. Raises `LabError` before `measure`."""
        return _started(self._prober)

    @property
    def direct(self) -> Prober:
        """Every node asked by its own MAC address. Raises `LabError` before `measure`."""
        return _started(self._direct)

    @property
    def service(self) -> Prober:
        """The client's view of the HTTP service. Raises `LabError` before `measure`, or without its port."""
        return _started(self._service)

    @property
    def arp(self) -> ArpObserver:
        """Who answers ARP and neighbour solicitations. Raises `LabError` before `measure`."""
        return _started(self._arp)

    @property
    def monitor(self) -> NetlinkMonitor:
        """Which kernels have the VIPs. Raises `LabError` before `measure`."""
        return _started(self._monitor)

    def settle(self) -> int:
        """Until every instrument has noted all that happened before this call; its instant in ns."""
        now_ns = time.monotonic_ns()
        for one in self._instruments():
            one.settle(now_ns)
        return now_ns

    def two_answering(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Overlap]:
        """When two nodes answered on a VIP, by UDP or ARP, to anybody: guarantee G1 says never."""
        seen = (self.prober, self.direct, self.arp)
        return instruments.two_answering(seen, start_ns, end_ns, subject)


def _started(found: R | None) -> R:
    if found is None:
        raise LabError("nothing is measured yet: Lab.measure() first")
    return found
