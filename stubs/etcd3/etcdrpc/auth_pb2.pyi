"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""

from collections.abc import Iterable

from google.protobuf.internal.containers import (
    RepeatedCompositeFieldContainer,
    RepeatedScalarFieldContainer,
)
from google.protobuf.message import Message

class User(Message):
    name: bytes
    password: bytes
    roles: RepeatedScalarFieldContainer[str]
    def __init__(self, *, name: bytes | None = ..., password: bytes | None = ..., roles: Iterable[str] = ...) -> None: ...
class Permission(Message):
    READ: int
    WRITE: int
    READWRITE: int
    permType: int
    key: bytes
    range_end: bytes
    def __init__(self, *, permType: int | None = ..., key: bytes | None = ..., range_end: bytes | None = ...) -> None: ...
class Role(Message):
    name: bytes
    keyPermission: RepeatedCompositeFieldContainer[Permission]
    def __init__(self, *, name: bytes | None = ..., keyPermission: Iterable[Permission] = ...) -> None: ...
