"""Planted bugs."""


def hunt_all(names, jobs):
    return 0
