"""Written by scripts/etcd_stubs.py from the descriptors in etcd3."""

