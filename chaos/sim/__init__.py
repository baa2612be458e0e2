"""The same core in virtual time: a seeded world with faults."""
