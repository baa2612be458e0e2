"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""

from collections.abc import Iterable

from google.protobuf.internal.containers import (
    RepeatedCompositeFieldContainer,
    RepeatedScalarFieldContainer,
)
from google.protobuf.message import Message

class KeyValue(Message):
    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int
    def __init__(self, *, key: bytes | None = ..., create_revision: int | None = ..., mod_revision: int | None = ..., version: int | None = ..., value: bytes | None = ..., lease: int | None = ...) -> None: ...
class Event(Message):
    PUT: int
    DELETE: int
    type: int
    kv: KeyValue
    prev_kv: KeyValue
    def __init__(self, *, type: int | None = ..., kv: KeyValue | None = ..., prev_kv: KeyValue | None = ...) -> None: ...
