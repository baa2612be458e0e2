"""Many leases on few nodes: cost at rest, and the time until a dead node's whole share is taken over."""
