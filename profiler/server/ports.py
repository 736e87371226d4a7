"""Ports of this machine: free ones, and who listens on which."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from planner.domain.serving import Endpoint
from planner.errors import InputError

LOOPBACK = "127.0.0.1"
LISTEN_STATE = "0A"


def free_endpoint() -> Endpoint:
    """Three ports that were free a moment ago. Another process may take one before it is used: try again."""
    with ExitStack() as stack:
        ports = []
        for _ in range(3):
            probe = stack.enter_context(socket.socket())
            probe.bind((LOOPBACK, 0))
            ports.append(probe.getsockname()[1])
    return Endpoint(LOOPBACK, *ports)


def ports_of(endpoint: Endpoint) -> dict[str, int]:
    return {"gRPC": endpoint.grpc_port, "HTTP": endpoint.http_port, "metrics": endpoint.metrics_port}


def occupied(endpoint: Endpoint) -> dict[str, int]:
    """The ports of an endpoint that cannot be bound now, by what they are for."""
    return {use: port for use, port in ports_of(endpoint).items() if not _can_bind(port)}


def require_free(endpoint: Endpoint) -> None:
    ports = ports_of(endpoint)
    if len(set(ports.values())) < len(ports):
        raise InputError(f"Triton's ports must differ, got {ports}")
    for use, port in occupied(endpoint).items():
        raise InputError(f"port {port} for {use} is already in use", hint="choose another or leave it to Planner")


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which one process listens; empty where it is gone."""
    inodes = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    ports = set()
    # gRPC may listen on 127.0.0.1 through an IPv6 socket.
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                field = line.split()
                if field[3] == LISTEN_STATE and field[9] in inodes:
                    ports.add(int(field[1].rpartition(":")[2], 16))
    return ports


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As Triton does: a port in TIME_WAIT is free for it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
