"""TLS between nodes: only 1.3, and both sides present a certificate of the fleet's authority."""

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from quiltfn.fleet.files import NodeFile

# With these options the kernel, too, notices within seconds that a peer's machine is gone.
SILENT_MS = 3000
KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))


def server_context(node: NodeFile) -> ssl.SSLContext:
    """The TLS context of the peer port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # Every connection presents its certificate: no session is resumed.
    context.num_tickets = 0
    return _prepared(context, node)


def client_context(node: NodeFile) -> ssl.SSLContext:
    """The TLS context for requests. The other node's certificate must contain its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    return _prepared(context, node)


def _prepared(context: ssl.SSLContext, node: NodeFile) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=node.ca_certificate)
    file = os.memfd_create("peer")
    try:
        os.write(file, f"{node.certificate}\n{node.key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


def node_of(certificate: Mapping[str, Any] | None) -> str | None:
    """The node's name in a verified certificate, in the form that `getpeercert` returns."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ())]
    return names[0] if len(names) == 1 else None


def set_options(opened: socket.socket | None) -> None:
    """Set the socket options of a connection between nodes."""
    if opened is None or opened.family not in (socket.AF_INET, socket.AF_INET6):
        return
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
    for option, value in KEEP_ALIVE:
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
