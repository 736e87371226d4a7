"""TLS towards a server over HTTP; gRPC brings its own."""

from __future__ import annotations

import ssl

from planner.domain.serving import Access
from planner.errors import InputError


def ssl_context(access: Access) -> ssl.SSLContext:
    """InputError where a certificate or a key cannot be used."""
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (access.ca, access.certificate, access.key) if path is not None)
        raise InputError(f"{files}: not what TLS needs: {error}") from error
    return context
