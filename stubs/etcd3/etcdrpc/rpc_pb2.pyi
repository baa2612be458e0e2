"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""

from collections.abc import Iterable

from google.protobuf.internal.containers import (
    RepeatedCompositeFieldContainer,
    RepeatedScalarFieldContainer,
)
from google.protobuf.message import Message

from . import auth_pb2, kv_pb2

NONE: int
NOSPACE: int
CORRUPT: int
class ResponseHeader(Message):
    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    def __init__(self, *, cluster_id: int | None = ..., member_id: int | None = ..., revision: int | None = ..., raft_term: int | None = ...) -> None: ...
class RangeRequest(Message):
    NONE: int
    ASCEND: int
    DESCEND: int
    KEY: int
    VERSION: int
    CREATE: int
    MOD: int
    VALUE: int
    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_order: int
    sort_target: int
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int
    def __init__(self, *, key: bytes | None = ..., range_end: bytes | None = ..., limit: int | None = ..., revision: int | None = ..., sort_order: int | None = ..., sort_target: int | None = ..., serializable: bool | None = ..., keys_only: bool | None = ..., count_only: bool | None = ..., min_mod_revision: int | None = ..., max_mod_revision: int | None = ..., min_create_revision: int | None = ..., max_create_revision: int | None = ...) -> None: ...
class RangeResponse(Message):
    header: ResponseHeader
    kvs: RepeatedCompositeFieldContainer[kv_pb2.KeyValue]
    more: bool
    count: int
    def __init__(self, *, header: ResponseHeader | None = ..., kvs: Iterable[kv_pb2.KeyValue] = ..., more: bool | None = ..., count: int | None = ...) -> None: ...
class PutRequest(Message):
    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool
    def __init__(self, *, key: bytes | None = ..., value: bytes | None = ..., lease: int | None = ..., prev_kv: bool | None = ..., ignore_value: bool | None = ..., ignore_lease: bool | None = ...) -> None: ...
class PutResponse(Message):
    header: ResponseHeader
    prev_kv: kv_pb2.KeyValue
    def __init__(self, *, header: ResponseHeader | None = ..., prev_kv: kv_pb2.KeyValue | None = ...) -> None: ...
class DeleteRangeRequest(Message):
    key: bytes
    range_end: bytes
    prev_kv: bool
    def __init__(self, *, key: bytes | None = ..., range_end: bytes | None = ..., prev_kv: bool | None = ...) -> None: ...
class DeleteRangeResponse(Message):
    header: ResponseHeader
    deleted: int
    prev_kvs: RepeatedCompositeFieldContainer[kv_pb2.KeyValue]
    def __init__(self, *, header: ResponseHeader | None = ..., deleted: int | None = ..., prev_kvs: Iterable[kv_pb2.KeyValue] = ...) -> None: ...
class RequestOp(Message):
    request_range: RangeRequest
    request_put: PutRequest
    request_delete_range: DeleteRangeRequest
    request_txn: TxnRequest
    def __init__(self, *, request_range: RangeRequest | None = ..., request_put: PutRequest | None = ..., request_delete_range: DeleteRangeRequest | None = ..., request_txn: TxnRequest | None = ...) -> None: ...
class ResponseOp(Message):
    response_range: RangeResponse
    response_put: PutResponse
    response_delete_range: DeleteRangeResponse
    response_txn: TxnResponse
    def __init__(self, *, response_range: RangeResponse | None = ..., response_put: PutResponse | None = ..., response_delete_range: DeleteRangeResponse | None = ..., response_txn: TxnResponse | None = ...) -> None: ...
class Compare(Message):
    EQUAL: int
    GREATER: int
    LESS: int
    NOT_EQUAL: int
    VERSION: int
    CREATE: int
    MOD: int
    VALUE: int
    LEASE: int
    result: int
    target: int
    key: bytes
    version: int
    create_revision: int
    mod_revision: int
    value: bytes
    lease: int
    range_end: bytes
    def __init__(self, *, result: int | None = ..., target: int | None = ..., key: bytes | None = ..., version: int | None = ..., create_revision: int | None = ..., mod_revision: int | None = ..., value: bytes | None = ..., lease: int | None = ..., range_end: bytes | None = ...) -> None: ...
class TxnRequest(Message):
    compare: RepeatedCompositeFieldContainer[Compare]
    success: RepeatedCompositeFieldContainer[RequestOp]
    failure: RepeatedCompositeFieldContainer[RequestOp]
    def __init__(self, *, compare: Iterable[Compare] = ..., success: Iterable[RequestOp] = ..., failure: Iterable[RequestOp] = ...) -> None: ...
class TxnResponse(Message):
    header: ResponseHeader
    succeeded: bool
    responses: RepeatedCompositeFieldContainer[ResponseOp]
    def __init__(self, *, header: ResponseHeader | None = ..., succeeded: bool | None = ..., responses: Iterable[ResponseOp] = ...) -> None: ...
class CompactionRequest(Message):
    revision: int
    physical: bool
    def __init__(self, *, revision: int | None = ..., physical: bool | None = ...) -> None: ...
class CompactionResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class HashRequest(Message):
    def __init__(self) -> None: ...
class HashKVRequest(Message):
    revision: int
    def __init__(self, *, revision: int | None = ...) -> None: ...
class HashKVResponse(Message):
    header: ResponseHeader
    hash: int
    compact_revision: int
    def __init__(self, *, header: ResponseHeader | None = ..., hash: int | None = ..., compact_revision: int | None = ...) -> None: ...
class HashResponse(Message):
    header: ResponseHeader
    hash: int
    def __init__(self, *, header: ResponseHeader | None = ..., hash: int | None = ...) -> None: ...
class SnapshotRequest(Message):
    def __init__(self) -> None: ...
class SnapshotResponse(Message):
    header: ResponseHeader
    remaining_bytes: int
    blob: bytes
    def __init__(self, *, header: ResponseHeader | None = ..., remaining_bytes: int | None = ..., blob: bytes | None = ...) -> None: ...
class WatchRequest(Message):
    create_request: WatchCreateRequest
    cancel_request: WatchCancelRequest
    def __init__(self, *, create_request: WatchCreateRequest | None = ..., cancel_request: WatchCancelRequest | None = ...) -> None: ...
class WatchCreateRequest(Message):
    NOPUT: int
    NODELETE: int
    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool
    filters: RepeatedScalarFieldContainer[int]
    prev_kv: bool
    def __init__(self, *, key: bytes | None = ..., range_end: bytes | None = ..., start_revision: int | None = ..., progress_notify: bool | None = ..., filters: Iterable[int] = ..., prev_kv: bool | None = ...) -> None: ...
class WatchCancelRequest(Message):
    watch_id: int
    def __init__(self, *, watch_id: int | None = ...) -> None: ...
class WatchResponse(Message):
    header: ResponseHeader
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    events: RepeatedCompositeFieldContainer[kv_pb2.Event]
    def __init__(self, *, header: ResponseHeader | None = ..., watch_id: int | None = ..., created: bool | None = ..., canceled: bool | None = ..., compact_revision: int | None = ..., cancel_reason: str | None = ..., events: Iterable[kv_pb2.Event] = ...) -> None: ...
class LeaseGrantRequest(Message):
    TTL: int
    ID: int
    def __init__(self, *, TTL: int | None = ..., ID: int | None = ...) -> None: ...
class LeaseGrantResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    error: str
    def __init__(self, *, header: ResponseHeader | None = ..., ID: int | None = ..., TTL: int | None = ..., error: str | None = ...) -> None: ...
class LeaseRevokeRequest(Message):
    ID: int
    def __init__(self, *, ID: int | None = ...) -> None: ...
class LeaseRevokeResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class LeaseKeepAliveRequest(Message):
    ID: int
    def __init__(self, *, ID: int | None = ...) -> None: ...
class LeaseKeepAliveResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    def __init__(self, *, header: ResponseHeader | None = ..., ID: int | None = ..., TTL: int | None = ...) -> None: ...
class LeaseTimeToLiveRequest(Message):
    ID: int
    keys: bool
    def __init__(self, *, ID: int | None = ..., keys: bool | None = ...) -> None: ...
class LeaseTimeToLiveResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    grantedTTL: int
    keys: RepeatedScalarFieldContainer[bytes]
    def __init__(self, *, header: ResponseHeader | None = ..., ID: int | None = ..., TTL: int | None = ..., grantedTTL: int | None = ..., keys: Iterable[bytes] = ...) -> None: ...
class LeaseLeasesRequest(Message):
    def __init__(self) -> None: ...
class LeaseStatus(Message):
    ID: int
    def __init__(self, *, ID: int | None = ...) -> None: ...
class LeaseLeasesResponse(Message):
    header: ResponseHeader
    leases: RepeatedCompositeFieldContainer[LeaseStatus]
    def __init__(self, *, header: ResponseHeader | None = ..., leases: Iterable[LeaseStatus] = ...) -> None: ...
class Member(Message):
    ID: int
    name: str
    peerURLs: RepeatedScalarFieldContainer[str]
    clientURLs: RepeatedScalarFieldContainer[str]
    def __init__(self, *, ID: int | None = ..., name: str | None = ..., peerURLs: Iterable[str] = ..., clientURLs: Iterable[str] = ...) -> None: ...
class MemberAddRequest(Message):
    peerURLs: RepeatedScalarFieldContainer[str]
    def __init__(self, *, peerURLs: Iterable[str] = ...) -> None: ...
class MemberAddResponse(Message):
    header: ResponseHeader
    member: Member
    members: RepeatedCompositeFieldContainer[Member]
    def __init__(self, *, header: ResponseHeader | None = ..., member: Member | None = ..., members: Iterable[Member] = ...) -> None: ...
class MemberRemoveRequest(Message):
    ID: int
    def __init__(self, *, ID: int | None = ...) -> None: ...
class MemberRemoveResponse(Message):
    header: ResponseHeader
    members: RepeatedCompositeFieldContainer[Member]
    def __init__(self, *, header: ResponseHeader | None = ..., members: Iterable[Member] = ...) -> None: ...
class MemberUpdateRequest(Message):
    ID: int
    peerURLs: RepeatedScalarFieldContainer[str]
    def __init__(self, *, ID: int | None = ..., peerURLs: Iterable[str] = ...) -> None: ...
class MemberUpdateResponse(Message):
    header: ResponseHeader
    members: RepeatedCompositeFieldContainer[Member]
    def __init__(self, *, header: ResponseHeader | None = ..., members: Iterable[Member] = ...) -> None: ...
class MemberListRequest(Message):
    def __init__(self) -> None: ...
class MemberListResponse(Message):
    header: ResponseHeader
    members: RepeatedCompositeFieldContainer[Member]
    def __init__(self, *, header: ResponseHeader | None = ..., members: Iterable[Member] = ...) -> None: ...
class DefragmentRequest(Message):
    def __init__(self) -> None: ...
class DefragmentResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class MoveLeaderRequest(Message):
    targetID: int
    def __init__(self, *, targetID: int | None = ...) -> None: ...
class MoveLeaderResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AlarmRequest(Message):
    GET: int
    ACTIVATE: int
    DEACTIVATE: int
    action: int
    memberID: int
    alarm: int
    def __init__(self, *, action: int | None = ..., memberID: int | None = ..., alarm: int | None = ...) -> None: ...
class AlarmMember(Message):
    memberID: int
    alarm: int
    def __init__(self, *, memberID: int | None = ..., alarm: int | None = ...) -> None: ...
class AlarmResponse(Message):
    header: ResponseHeader
    alarms: RepeatedCompositeFieldContainer[AlarmMember]
    def __init__(self, *, header: ResponseHeader | None = ..., alarms: Iterable[AlarmMember] = ...) -> None: ...
class StatusRequest(Message):
    def __init__(self) -> None: ...
class StatusResponse(Message):
    header: ResponseHeader
    version: str
    dbSize: int
    leader: int
    raftIndex: int
    raftTerm: int
    def __init__(self, *, header: ResponseHeader | None = ..., version: str | None = ..., dbSize: int | None = ..., leader: int | None = ..., raftIndex: int | None = ..., raftTerm: int | None = ...) -> None: ...
class AuthEnableRequest(Message):
    def __init__(self) -> None: ...
class AuthDisableRequest(Message):
    def __init__(self) -> None: ...
class AuthenticateRequest(Message):
    name: str
    password: str
    def __init__(self, *, name: str | None = ..., password: str | None = ...) -> None: ...
class AuthUserAddRequest(Message):
    name: str
    password: str
    def __init__(self, *, name: str | None = ..., password: str | None = ...) -> None: ...
class AuthUserGetRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...
class AuthUserDeleteRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...
class AuthUserChangePasswordRequest(Message):
    name: str
    password: str
    def __init__(self, *, name: str | None = ..., password: str | None = ...) -> None: ...
class AuthUserGrantRoleRequest(Message):
    user: str
    role: str
    def __init__(self, *, user: str | None = ..., role: str | None = ...) -> None: ...
class AuthUserRevokeRoleRequest(Message):
    name: str
    role: str
    def __init__(self, *, name: str | None = ..., role: str | None = ...) -> None: ...
class AuthRoleAddRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...
class AuthRoleGetRequest(Message):
    role: str
    def __init__(self, *, role: str | None = ...) -> None: ...
class AuthUserListRequest(Message):
    def __init__(self) -> None: ...
class AuthRoleListRequest(Message):
    def __init__(self) -> None: ...
class AuthRoleDeleteRequest(Message):
    role: str
    def __init__(self, *, role: str | None = ...) -> None: ...
class AuthRoleGrantPermissionRequest(Message):
    name: str
    perm: auth_pb2.Permission
    def __init__(self, *, name: str | None = ..., perm: auth_pb2.Permission | None = ...) -> None: ...
class AuthRoleRevokePermissionRequest(Message):
    role: str
    key: str
    range_end: str
    def __init__(self, *, role: str | None = ..., key: str | None = ..., range_end: str | None = ...) -> None: ...
class AuthEnableResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthDisableResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthenticateResponse(Message):
    header: ResponseHeader
    token: str
    def __init__(self, *, header: ResponseHeader | None = ..., token: str | None = ...) -> None: ...
class AuthUserAddResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthUserGetResponse(Message):
    header: ResponseHeader
    roles: RepeatedScalarFieldContainer[str]
    def __init__(self, *, header: ResponseHeader | None = ..., roles: Iterable[str] = ...) -> None: ...
class AuthUserDeleteResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthUserChangePasswordResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthUserGrantRoleResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthUserRevokeRoleResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthRoleAddResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthRoleGetResponse(Message):
    header: ResponseHeader
    perm: RepeatedCompositeFieldContainer[auth_pb2.Permission]
    def __init__(self, *, header: ResponseHeader | None = ..., perm: Iterable[auth_pb2.Permission] = ...) -> None: ...
class AuthRoleListResponse(Message):
    header: ResponseHeader
    roles: RepeatedScalarFieldContainer[str]
    def __init__(self, *, header: ResponseHeader | None = ..., roles: Iterable[str] = ...) -> None: ...
class AuthUserListResponse(Message):
    header: ResponseHeader
    users: RepeatedScalarFieldContainer[str]
    def __init__(self, *, header: ResponseHeader | None = ..., users: Iterable[str] = ...) -> None: ...
class AuthRoleDeleteResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthRoleGrantPermissionResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
class AuthRoleRevokePermissionResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...
