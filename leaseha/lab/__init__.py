"""Nodes, clients and etcd members as network namespaces on one machine."""
