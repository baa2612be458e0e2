"""The data plane: a restic REST repository on the virtual IPs of its lease, in a process of its own.

Promised: a 200 to an upload is sent only after the bytes were hashed, are on the disk (file and directory
fsynced) under their final name, and the lease's deadline and token were looked at once more. While the gate
is closed everything is answered 503, never 404, 403 or 401, which a client would take for the truth. Where copies
are kept on other nodes (`replicator`), all that may take over have it first.
"""
