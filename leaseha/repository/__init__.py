"""The data plane: a restic REST repository on the virtual IP of its lease."""
