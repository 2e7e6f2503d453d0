"""Makes a newer version of quiltfn for tests of upgrades: this version with the next number, one
more migration, and more data in messages between nodes. It does not need the history of the
checkout.
"""

import py_compile
import re
import shutil
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import quiltfn
from quiltfn.store.database import tables

MIGRATION = '''\
"""Something new in every table, and in a table of its own."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    for name in {names}:
        op.add_column(name, sa.Column("motto", sa.Text, nullable=False, server_default="new"))
    op.create_table("motto", sa.Column("id", sa.Text, primary_key=True))
    op.create_index("motto_of_invocation", "invocation", ["motto"])
    op.execute(
        "INSERT INTO change (number, kind, tenant_id, object_id) "
        "SELECT coalesce(max(number), 0) + 1, 'motto', '', '' FROM change"
    )
'''
# With this factory, msgspec always encodes the field; it omits fields with a constant default
# value.
SAID = '    motto: Sequence[str] = msgspec.field(default_factory=lambda: ["new"])\n'


class Version(NamedTuple):
    """A version of quiltfn. `program`: its `quiltfn` command."""

    number: str
    program: Sequence[str]


def of_checkout() -> Version:
    return Version(quiltfn.__version__, [str(Path(sys.executable).parent / "quiltfn")])


def newer(directory: Path) -> Version:
    """Creates the newer version in a new directory with its own environment, since a server finds
    its program by the prefix of its interpreter.
    """
    major, minor, *_ = quiltfn.__version__.split(".")
    number = f"{major}.{int(minor) + 1}.0"
    package = directory / "program" / "quiltfn"
    shutil.copytree(Path(quiltfn.__file__).parent, package)  # this includes the compiled files
    _change(package / "__init__.py", f'"{quiltfn.__version__}"', f'"{number}"')
    _migrate(package / "store")
    said = package / "model"
    _add(said / "member.py", "    memory_free_mib: float = 0.0\n", SAID)
    _add(said / "forwarded.py", "    in_any_case: bool = False\n", SAID)
    _add(said / "forwarded.py", "    executed: bool = True\n", SAID)
    _change(
        said / "forwarded.py",
        "from enum import",
        "from collections.abc import Sequence\nfrom enum import",
    )
    environment = directory / "environment"
    venv.EnvBuilder(symlinks=True).create(environment)
    libraries = sysconfig.get_path("purelib")
    found = next(environment.glob("lib/python*/site-packages"))
    (found / "newer.pth").write_text(f"{package.parent}\n{libraries}\n")
    _add(
        package / "operator" / "serve.py",
        "    paths = [Path(sys.prefix), Path(sys.base_prefix), package]\n",
        f'    paths.append(Path("{sys.prefix}"))\n',
    )
    python = str(environment / "bin" / "python")
    return Version(number, [python, "-I", "-m", "quiltfn"])


def _migrate(store: Path) -> None:
    before = tables.REVISION
    revision = f"{int(before) + 1:04}"
    text = MIGRATION.format(revision=revision, before=before, names=sorted(tables.metadata.tables))
    (store / "migrations" / "versions" / f"r{revision}_motto.py").write_text(text)


def _add(path: Path, line: str, more: str) -> None:
    _change(path, line, line + more)


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert len(re.findall(re.escape(old), text)) == 1, f"{path} has not {old!r} once"
    path.write_text(text.replace(old, new))
    py_compile.compile(str(path))
