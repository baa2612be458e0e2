"""Our words to etcd's messages, and back. Pure translation: no channel, no clock, no decision.

etcd3's protos are those of etcd 3.3. Two later things travel as unknown fields, which protobuf keeps: the
watch's progress request (3.4), and the errors in a member's status (3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import unknown_fields

from leaseha.adapters import etcdshim
from leaseha.core.events import Change
from leaseha.core.values import (
    Committed,
    Compare,
    Delete,
    Head,
    KeyValue,
    Put,
    Refused,
    Target,
    Txn,
)

etcdshim.install()

from etcd3 import etcdrpc as rpc  # noqa: E402  # its classes exist only after the line above
from etcd3.etcdrpc import kv_pb2  # noqa: E402  # as above

__all__ = ["PROGRESS", "Prefix", "head_of", "rpc", "status_errors"]

PROGRESS: Final = rpc.WatchRequest.FromString(b"\x1a\x00")
"""Asks a watch stream for a sign of life (field 3, an empty message)."""

_STATUS_ERRORS: Final = 8
_EVENT_DELETE: Final = 1
_TARGETS: Final = {
    Target.MOD: (rpc.Compare.MOD, "mod_revision"),
    Target.CREATE: (rpc.Compare.CREATE, "create_revision"),
    Target.LEASE: (rpc.Compare.LEASE, "lease"),
}


def head_of(header: rpc.ResponseHeader) -> Head:
    """What the response says of its cluster."""
    return Head(header.cluster_id, header.revision, header.raft_term)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The part of etcd's key space that is one cluster's: `/leaseha/<cluster>/`."""

    path: str

    def absolute(self, key: str) -> bytes:
        """The key as etcd knows it."""
        return (self.path + key).encode()

    def relative(self, key: bytes) -> str:
        """The key as the core knows it."""
        return key.decode(errors="replace").removeprefix(self.path)

    def end(self) -> bytes:
        """The first key behind all of this prefix."""
        raw = self.path.encode().rstrip(b"\xff")
        return raw[:-1] + bytes([raw[-1] + 1])

    def pair(self, kv: kv_pb2.KeyValue) -> KeyValue:
        """One key as read or put."""
        value = kv.value.decode(errors="replace")
        return KeyValue(self.relative(kv.key), value, kv.mod_revision, kv.create_revision, kv.lease)

    def read(self, key: str) -> rpc.RangeRequest:
        """Read one key, linearizably."""
        return rpc.RangeRequest(key=self.absolute(key))

    def page(self, after: bytes, revision: int, limit: int) -> rpc.RangeRequest:
        """The next keys behind `after` (b"": from the start), as they were at `revision` (0: now)."""
        first = after + b"\x00" if after else self.absolute("")
        return rpc.RangeRequest(key=first, range_end=self.end(), revision=revision, limit=limit)

    def txn(self, txn: Txn) -> rpc.TxnRequest:
        """The transaction as etcd wants it."""
        return rpc.TxnRequest(
            compare=[self._compare(compare) for compare in txn.compares],
            success=[self._write(put) for put in txn.puts],
            failure=[rpc.RequestOp(request_range=self.read(key)) for key in txn.reads],
        )

    def _compare(self, compare: Compare) -> rpc.Compare:
        target, field = _TARGETS[compare.target]
        message = rpc.Compare(result=rpc.Compare.EQUAL, target=target, key=self.absolute(compare.key))
        setattr(message, field, compare.value)
        return message

    def _write(self, put: Put | Delete) -> rpc.RequestOp:
        key = self.absolute(put.key)
        if isinstance(put, Delete):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        value = rpc.PutRequest(key=key, value=put.value.encode(), lease=put.lease)
        return rpc.RequestOp(request_put=value)

    def outcome(self, txn: Txn, answer: rpc.TxnResponse) -> Committed | Refused:
        """What the answer to `txn` says; absent keys among its reads too."""
        head = head_of(answer.header)
        if answer.succeeded:
            return Committed(head)
        reads = zip(txn.reads, answer.responses, strict=True)
        return Refused(head, tuple(self.found(key, response.response_range) for key, response in reads))

    def found(self, key: str, answer: rpc.RangeResponse) -> KeyValue:
        """The one key asked for, which may be absent."""
        return self.pair(answer.kvs[0]) if answer.kvs else KeyValue(key, "", 0)

    def watch(self, from_revision: int) -> rpc.WatchRequest:
        """Tell all changes from this revision on, with the values before."""
        create = rpc.WatchCreateRequest(
            key=self.absolute(""), range_end=self.end(), start_revision=from_revision, prev_kv=True
        )
        return rpc.WatchRequest(create_request=create)

    def change(self, event: kv_pb2.Event) -> Change:
        """One event of a watch. A deletion carries its revision in the key that it deletes."""
        before = self.pair(event.prev_kv) if event.HasField("prev_kv") else None
        revision = event.kv.mod_revision
        if event.type == _EVENT_DELETE:
            return Change(revision, KeyValue(self.relative(event.kv.key), "", 0), before)
        return Change(revision, self.pair(event.kv), before)


def status_errors(status: rpc.StatusResponse) -> tuple[str, ...]:
    """Alarms and other complaints of a member about itself ("memberID:... alarm:NOSPACE")."""
    fields: Any = unknown_fields.UnknownFieldSet(status)
    return tuple(f.data.decode(errors="replace") for f in fields if f.field_number == _STATUS_ERRORS)
