"""Writes stubs/etcd3: types for etcd's messages and services, from the descriptors that etcd3 carries.

mypy reads them. Run it after a change of etcd3: `.venv/bin/python scripts/etcd_stubs.py`.
"""

import ast
import importlib.util
import pathlib
import re

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool

Field = descriptor.FieldDescriptor
SCALARS = {
    Field.CPPTYPE_STRING: "str",
    Field.CPPTYPE_BOOL: "bool",
    Field.CPPTYPE_FLOAT: "float",
    Field.CPPTYPE_DOUBLE: "float",
}
OUT = pathlib.Path(__file__).resolve().parent.parent / "stubs" / "etcd3" / "etcdrpc"
HEAD = '"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""\n\n'


def files() -> dict[str, descriptor.FileDescriptor]:
    """The three files of etcd's API, by the stem of their module's name."""
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("etcd3 is not installed here: make env")
    root = pathlib.Path(spec.submodule_search_locations[0], "etcdrpc")
    pool = descriptor_pool.DescriptorPool()
    found = {}
    for stem in ("kv", "auth", "rpc"):
        raw = re.search(r"serialized_pb=_b\(('(?:[^'\\]|\\.)*')\)", (root / f"{stem}_pb2.py").read_text())
        if raw is None:
            raise SystemExit(f"{stem}_pb2.py of this etcd3 is written in another way")
        proto = descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(raw[1]).encode("latin1"))
        pool.Add(proto)
        found[stem] = pool.FindFileByName(proto.name)
    return found


def nested(kind: descriptor.Descriptor) -> str:
    """`TxnRequest`, or `Outer.Inner`."""
    return f"{nested(kind.containing_type)}.{kind.name}" if kind.containing_type else kind.name


def named(kind: descriptor.Descriptor, here: descriptor.FileDescriptor) -> str:
    """The class as the module of `here` may write it."""
    stem = pathlib.PurePath(kind.file.name).stem
    return nested(kind) if kind.file is here else f"{stem}_pb2.{nested(kind)}"


def base(field: descriptor.FieldDescriptor) -> str:
    """The type of one value of the field."""
    if field.message_type and field.containing_type:
        return named(field.message_type, field.containing_type.file)
    if field.type == Field.TYPE_BYTES:
        return "bytes"
    return SCALARS.get(field.cpp_type, "int")


def message(kind: descriptor.Descriptor, pad: str = "") -> list[str]:
    """One message class: enum values, nested classes, fields, constructor."""
    lines = [f"{pad}class {kind.name}(Message):"]
    inner = pad + "    "
    for enum in kind.enum_types:
        lines += [f"{inner}{v.name}: int" for v in enum.values]
    for child in kind.nested_types:
        lines += message(child, inner)
    arguments = []
    for field in kind.fields:
        name = base(field)
        if field.is_repeated:
            box = "RepeatedCompositeFieldContainer" if field.message_type else "RepeatedScalarFieldContainer"
            lines.append(f"{inner}{field.name}: {box}[{name}]")
            arguments.append(f"{field.name}: Iterable[{name}] = ...")
        else:
            lines.append(f"{inner}{field.name}: {name}")
            arguments.append(f"{field.name}: {name} | None = ...")
    signature = ", ".join(["self", *(["*"] if arguments else []), *arguments])
    return [*lines, f"{inner}def __init__({signature}) -> None: ..."]


def module(file: descriptor.FileDescriptor) -> str:
    """All messages of one file."""
    lines = ["from collections.abc import Iterable", ""]
    lines += ["from google.protobuf.internal.containers import (", "    RepeatedCompositeFieldContainer,"]
    lines += ["    RepeatedScalarFieldContainer,", ")", "from google.protobuf.message import Message", ""]
    if file.dependencies:
        lines += ["from . import auth_pb2, kv_pb2", ""]
    for enum in file.enum_types_by_name.values():
        lines += [f"{v.name}: int" for v in enum.values]
    for kind in file.message_types_by_name.values():
        lines += message(kind)
    return HEAD + "\n".join(lines) + "\n"


def services(file: descriptor.FileDescriptor) -> str:
    """All services of one file, as grpc.aio calls them."""
    lines = ["from grpc import aio", "", "from . import rpc_pb2", ""]
    for service in file.services_by_name.values():
        lines += [f"class {service.name}Stub:", "    def __init__(self, channel: aio.Channel) -> None: ..."]
        for method in service.methods:
            shape = ("Stream" if method.client_streaming else "Unary") + (
                "Stream" if method.server_streaming else "Unary"
            )
            types = f"rpc_pb2.{method.input_type.name}, rpc_pb2.{method.output_type.name}"
            lines.append(f"    {method.name}: aio.{shape}MultiCallable[{types}]")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write them all."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT.parent / "__init__.pyi").write_text(HEAD)
    (OUT / "__init__.pyi").write_text(HEAD + "from .rpc_pb2 import *\nfrom .rpc_pb2_grpc import *\n")
    for stem, file in files().items():
        (OUT / f"{stem}_pb2.pyi").write_text(module(file))
    (OUT / "rpc_pb2_grpc.pyi").write_text(services(files()["rpc"]))


if __name__ == "__main__":
    main()
