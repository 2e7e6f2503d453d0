"""A proxy on loopback that replaces npm's registry and the archives of github.com, and records the
requested paths.
"""

import base64
import hashlib
import http.server
import io
import json
import ssl
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = ("registry.npmjs.org", "codeload.github.com")


def archive_of(files: Mapping[str, str], top: str = "package") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(text.encode()), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


class Registry:
    """The packages that the proxy serves. `asked`: the requested paths, in order. `repository`: the
    archive that every repository returns.
    """

    def __init__(self, port: int, place: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.asked: list[str] = []
        self.repository = b""
        self._packages: dict[str, bytes] = {}
        self._manifests: dict[str, dict[str, Any]] = {}
        self.certificate = place / "ca.pem"
        self.context = _with_certificate(place, self.certificate)

    def add(self, name: str, **fields: Any) -> None:
        """Add version 1.0.0 of a package. `fields`: further fields of its package.json."""
        said = {"name": name, "version": "1.0.0", **fields}
        archive = archive_of({"package.json": json.dumps(said), "index.js": ""})
        self._packages[name], self._manifests[name] = archive, said

    def response(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path.startswith("/archive/"):
            return self._packages.get(path.rpartition("/")[2].removesuffix(".tgz"))
        if "/tar.gz/" in path:
            return self.repository
        name = path.rpartition("/")[2]
        if name not in self._manifests:
            return None
        digest = base64.b64encode(hashlib.sha512(self._packages[name]).digest()).decode()
        dist = {
            "tarball": f"https://{HOSTS[0]}/archive/{name}.tgz",
            "integrity": f"sha512-{digest}",
        }
        whole = self._manifests[name] | {"dist": dist}
        versions = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": whole}}
        return json.dumps(versions).encode()

    def environment(self, home: Path) -> dict[str, str]:
        """The environment that makes npm use this proxy. `home`: a directory for npm's cache, the
        user's settings (which a project's settings can override), and planted files.
        """
        home.mkdir()
        said = f"prefix={home}/prefix\ncafile={self.certificate}\nfetch-retries=0\n"
        (home / ".npmrc").write_text(said)
        return {
            "HOME": str(home),
            "NODE_EXTRA_CA_CERTS": str(self.certificate),
            "HTTPS_PROXY": self.url,
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def running(place: Path) -> Iterator[Registry]:
    """Run the proxy, and store its certificate in `place`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = registry.response(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            with suppress(OSError):  # the client may have closed the connection
                self.wfile.write(body or b"")

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                secured = registry.context.wrap_socket(self.connection, server_side=True)
            except OSError:
                return
            with secured:
                type(self)(secured, self.client_address, self.server)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, since pytest would show the output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = Registry(server.server_address[1], place)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _with_certificate(place: Path, shown: Path) -> ssl.SSLContext:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=test")
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    names = x509.SubjectAlternativeName([x509.DNSName(one) for one in HOSTS])
    signed = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    shown.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = place / "key.pem"
    private.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, private)
    return context
