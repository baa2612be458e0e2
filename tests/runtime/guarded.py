"""A process that is guarded as an agent is, and does nothing else: obeys a line of JSON, answers with one."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_MS
from leaseha.runtime.guarding import Guarding
from leaseha.runtime.lock import AgentLock

CLUSTER = "guarded"
LEAVER = "import os, time\nos.setsid()\nif os.fork() == 0:\n    time.sleep(600)"
"""A child of a child, in a session of its own, whose parent is gone."""


class Body:
    """What the words mean."""

    def __init__(self, folder: Path, pulse_s: float) -> None:
        self.guard = Guarding(CLUSTER, AgentLock(folder), pulse_s=pulse_s)
        self.guard.start()
        self.guard.attach(asyncio.get_running_loop())

    def obey(self, word: dict[str, Any]) -> Any:
        """The answer to one word."""
        match word:
            case {"configure": told}:
                self.guard.configure(told)
            case {"session": session}:
                self.guard.session(session)
            case {"arm": lease, "token": token, "ms": ms}:
                self.guard.arm(lease, token, clock.now().plus(ms * NS_PER_MS))
            case {"arm_all": leases, "ms": ms}:
                until = clock.now().plus(ms * NS_PER_MS)
                for lease in leases:
                    self.guard.arm(lease, 1, until)
            case {"disarm_all": leases}:
                for lease in leases:
                    self.guard.disarm(lease)
            case {"disarm": lease}:
                self.guard.disarm(lease)
            case {"spawn": _}:
                subprocess.run([sys.executable, "-c", LEAVER], check=True, stdout=subprocess.DEVNULL)
            case {"bye": _}:
                self.guard.bye()
        return {"guard": self.guard.pid, "layer": self.guard.layer(), "pid": os.getpid()}


async def main() -> None:
    """Until the end of the standard input."""
    body = Body(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.05)
    reader = asyncio.StreamReader(limit=1 << 22)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        answer = body.obey(json.loads(line))
        await asyncio.sleep(0)  # whatever an agent would await next
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
