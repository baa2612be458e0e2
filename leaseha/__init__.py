"""leaseha keeps one address, and the backups behind it, alive on two or more machines.

Nodes compete for a lease in etcd; the one that holds it binds the virtual IP and serves on it. What is
promised, and what is not, stands in `docs/guarantees.md`.
"""

__version__ = "0.1.0.dev0"
