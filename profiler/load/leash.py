"""Becomes another program that ends with the process that started it.

Runs as a script: PARENT CORES COMMAND..., with CORES as "0,1" or "" for all. A signal that the kernel sends at
the parent's death outlives exec; setting it here, not between fork and exec, spares a process full of gRPC
threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, cores, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the call above
        sys.exit(1)
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
