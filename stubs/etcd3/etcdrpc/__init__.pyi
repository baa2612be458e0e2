"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""

from .rpc_pb2 import *
from .rpc_pb2_grpc import *
