"""Decides who holds what: pure and synchronous, with no I/O, clock, randomness or logging.

Every event goes through one door, `leaseha.core.machine.step(state, event) -> (state, effects)`, in
production, in the simulator and in the tests. What is not promised here: that an effect happens, or
happens in time. The runtime reports each one back as an event, and the core is right in both worlds.
"""
