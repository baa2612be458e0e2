"""Joins the core to the adapters: the one loop, the executor, the timers, the status."""
