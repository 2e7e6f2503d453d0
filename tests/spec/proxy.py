"""A Debian nginx in front of a server, with its own files, port and process."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.server import short_dir, until
from free_ports import free_port
from timeouts import scaled

NGINX = "/usr/sbin/nginx"
# With one worker and one open connection, leftovers of a request reach the next request.
CONFIG = """
daemon off;
worker_processes 1;
pid ROOT/pid;
events { worker_connections 64; }
http {
    log_format sent escape=json
        '{"id":"$request_id","method":"$request_method","status":$status,"to":"$upstream_addr"}';
    access_log ROOT/access sent;
    client_body_temp_path ROOT/body;
    proxy_temp_path ROOT/proxy;
    fastcgi_temp_path ROOT/fastcgi;
    uwsgi_temp_path ROOT/uwsgi;
    scgi_temp_path ROOT/scgi;
    client_header_timeout 1s;
    client_body_timeout 1s;
    client_max_body_size 64m;
    map $http_upgrade $upgrade { default upgrade; "" ""; }
    upstream server { server SERVER; keepalive 1; }
    server {
        listen 127.0.0.1:PORT;
        proxy_set_header Host 127.0.0.1;
        proxy_set_header X-Request-Id $request_id;
        MANNER
        location / {
            proxy_pass http://server;
            proxy_http_version 1.1;
            add_header X-Sent $request_id always;
        }
    }
}
"""
PLAIN = 'proxy_set_header Connection "";'
# Ways in which nginx handles requests: Debian's configuration; the lines that nginx documents for
# WebSockets; and a configuration that passes on as much as possible.
MANNERS = {
    "shipped": PLAIN,
    "sockets": "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade;",
    "lax": f"{PLAIN} proxy_request_buffering off; ignore_invalid_headers off; "
    "underscores_in_headers on; large_client_header_buffers 4 256k; merge_slashes off;",
}


class Proxy:
    """A running nginx. `url`: its address."""

    def __init__(self, root: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._access = root / "access"

    def sent(self) -> list[dict[str, Any]]:
        """Every request that nginx recognized, oldest first. `to`: the server's address; empty if
        nginx did not pass the request on.
        """
        return [json.loads(line) for line in self._access.read_text().splitlines()]


@contextmanager
def nginx(to: str, manner: str) -> Iterator[Proxy]:
    """Runs an nginx in front of the server at the URL `to`."""
    with short_dir() as root:
        port = free_port()
        text = CONFIG.replace("MANNER", MANNERS[manner]).replace("SERVER", urlsplit(to).netloc)
        (root / "conf").write_text(text.replace("PORT", str(port)).replace("ROOT", str(root)))
        command = [NGINX, "-p", str(root), "-c", str(root / "conf"), "-e", str(root / "errors")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, (root / "errors").read_text()
            yield Proxy(root, port)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            process.wait(scaled(10))


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
