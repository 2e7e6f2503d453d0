"""Self-signed certificates of TLS servers."""

import subprocess
from pathlib import Path


def self_signed(directory: Path, name: str) -> Path:
    """A PEM file with a certificate for `name`, such as `DNS:hook.example`. Its key is in a file
    beside it with the same name and the suffix `.key`.
    """
    path = directory / "own.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = f"-subj /CN=quiltfn -addext subjectAltName={name}"
    files = f"-keyout {path}.key -out {path}"
    subprocess.run(f"{command} {names} {files}".split(), check=True, capture_output=True)
    return path
