"""etcd, as leaseha uses it: etcd3's message classes and stubs on grpc.aio channels of our own, one per member."""

from leaseha.adapters.etcd.auth import User
from leaseha.adapters.etcd.client import EtcdClient
from leaseha.adapters.etcd.member import Tls
from leaseha.adapters.etcd.peers import Peer
from leaseha.adapters.etcd.status import MemberStatus, diverges, known_bad
from leaseha.adapters.etcd.watch import WatchBatch, WatchNews, WatchReread

__all__ = [
    "EtcdClient",
    "MemberStatus",
    "Peer",
    "Tls",
    "User",
    "WatchBatch",
    "WatchNews",
    "WatchReread",
    "diverges",
    "known_bad",
]
