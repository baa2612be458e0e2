"""Faults, histories and the checkers that judge them; leaseha never imports this."""
