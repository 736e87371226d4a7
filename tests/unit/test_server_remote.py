"""The address of a server that somebody else runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.domain.serving import Access, Endpoint, Transport
from planner.errors import InputError
from profiler.server.remote import parse_url


@pytest.mark.parametrize(
    "url",
    ["", "host", "host:", ":8001", "host:http", "host:0", "host:65535", "ftp://host:8001", "http://host:8000/path",
     "grpc://user:secret@host:8001"],
)  # fmt: skip
def test_remote_url_refused(url: str) -> None:
    with pytest.raises(InputError, match="host:port"):
        parse_url(url)


def test_remote_url() -> None:
    assert parse_url("gpu1:8001") == Endpoint("gpu1", 8001, 8000, 8002)
    assert parse_url("grpc://[::1]:9001/").address == "[::1]:9001"
    assert parse_url("http://gpu1:8000") == Endpoint("gpu1", 8001, 8000, 8002, Access(transport=Transport.HTTP))
    assert parse_url("http://gpu1:8000").address == "gpu1:8000"
    assert parse_url("https://gpu1:443").access.tls
    assert parse_url("grpcs://gpu1:8001").access == Access(tls=True)


def test_a_certificate_turns_tls_on_and_headers_are_not_shown() -> None:
    access = Access(ca=Path("ca.pem"), headers={"authorization": "secret"})
    endpoint = parse_url("gpu1:8001", access)
    assert endpoint.access.tls
    assert "secret" not in repr(endpoint)
