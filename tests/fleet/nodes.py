"""Real nodes of one fleet for tests; each is a server with its own file and directories."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from e2e.server import Function, Server, until
from free_ports import free_port
from quiltfn.operator import fleet

PASSWORD_FILE = "password"


def run(*words: str) -> None:
    """Runs `quiltfn fleet` in this process: a separate one would mostly wait for its imports."""
    assert fleet.main(words) == 0


@dataclass
class Fleet:
    """A fleet, which is created by the commands that operators use."""

    directory: Path
    url: str
    another: Callable[..., Server]
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.directory / "fleet.toml"

    def init(self, password: str) -> "Fleet":
        """Runs `quiltfn fleet init`; the database must exist."""
        secret = self.directory / PASSWORD_FILE
        secret.write_text(password + "\n")
        where = ("--fleet", str(self.file), "--store", self.url)
        run("init", *where, "--store-password-file", str(secret))
        return self

    def add(self, name: str, *options: str) -> Path:
        """Runs `quiltfn fleet add-node`; returns the node's file."""
        self.addresses[name] = f"127.0.0.1:{free_port()}"
        path = self.directory / f"{name}.toml"
        where = ("--fleet", str(self.file), "--output", str(path))
        run("add-node", name, "--address", self.addresses[name], *where, *options)
        return path

    def node(self, name: str, options: str = "") -> Server:
        """The server of a node, which is not started yet."""
        path = self.directory / f"{name}.toml"
        return self.another(
            options=f"--fleet {path if path.exists() else self.add(name)} {options}"
        )


def is_active(node: Server, function: Function) -> bool:
    return bool(node.call("GET", function.path).json().get("state") == "active")


def on(node: Server, function: Function) -> Function:
    """The same function at another node; waits until that node knows it."""
    until(lambda: is_active(node, function))
    return Function(node, function.id)
