"""The address of a server that somebody else runs."""

from __future__ import annotations

import pytest

from planner.domain.serving import Endpoint
from planner.errors import InputError
from profiler.server.remote import parse_url


@pytest.mark.parametrize("url", ["", "host", "host:", ":8001", "host:http", "host:0", "host:65535"])
def test_remote_url_refused(url: str) -> None:
    with pytest.raises(InputError, match="host:port"):
        parse_url(url)


def test_remote_url() -> None:
    assert parse_url("gpu1:8001") == Endpoint("gpu1", 8001, 8000, 8002)
    assert parse_url("grpc://[::1]:9001/").host == "[::1]"
