"""Gives etcd3 0.12.0 working message classes on a current protobuf. Install before `import etcd3`.

The generated files of etcd3 call a constructor that protobuf has refused since 4.21 ("Descriptors cannot be
created directly"). The descriptors that those files carry as text are sound, so the classes are built from
them, in a pool of their own: other etcd packages register the same names in the default one. They are those
of etcd 3.3; what came later (`leaseha.adapters.etcd.messages` names two) travels as unknown fields.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import pathlib
import re
import sys
import types
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_SERIALIZED: Final = re.compile(r"serialized_pb=_b\(('(?:[^'\\]|\\.)*')\)")
_FILES: Final = ("kv", "auth", "rpc")  # in the order of their dependencies


def install() -> bool:
    """Put the message modules of etcd3 into `sys.modules`; True if that was needed and done.

    Does nothing when etcd3 is loaded already, or is one whose files are not of the old kind.

    Raises:
        ModuleNotFoundError: there is no etcd3.
    """
    if "etcd3" in sys.modules:
        return False
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("etcd3", name="etcd3")
    protos = _own_protos(pathlib.Path(spec.submodule_search_locations[0], "etcdrpc"))
    if protos is None:
        return False
    _quieten_grpc()
    pool = descriptor_pool.DescriptorPool()
    for proto in protos:
        pool.Add(proto)
        module = _module(pool, proto.name)
        sys.modules[module.__name__] = module
    return True


def _own_protos(root: pathlib.Path) -> list[descriptor_pb2.FileDescriptorProto] | None:
    """The descriptors that etcd3's own generated files carry; None if they are not the old kind."""
    protos = []
    for stem in _FILES:
        found = _SERIALIZED.search((root / f"{stem}_pb2.py").read_text(encoding="utf-8"))
        if found is None:
            return None
        raw = ast.literal_eval(found[1]).encode("latin1")
        protos.append(descriptor_pb2.FileDescriptorProto.FromString(raw))
    return protos


def _module(pool: descriptor_pool.DescriptorPool, name: str) -> types.ModuleType:
    """What protoc would have generated for the file `name`: its messages, enums and enum values."""
    file = pool.FindFileByName(name)
    members: dict[str, object] = {"DESCRIPTOR": file}
    for message, descriptor in file.message_types_by_name.items():
        members[message] = message_factory.GetMessageClass(descriptor)
    for enum, values in file.enum_types_by_name.items():
        members[enum] = enum_type_wrapper.EnumTypeWrapper(values)
        members |= {value.name: value.number for value in values.values}
    module = types.ModuleType(f"etcd3.etcdrpc.{pathlib.PurePath(name).stem}_pb2")
    vars(module).update(members)
    return module


def _quieten_grpc() -> None:
    """The C++ core of gRPC writes to stderr of its own accord, and hooks into forks that we never do.

    Read once, when grpc is loaded; what the operator has set stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
