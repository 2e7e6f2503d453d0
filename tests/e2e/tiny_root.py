"""A root file system with a shell and a few programs, copied from this machine."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("dash", "cat", "id", "ls", "mkdir", "readlink", "stat", "touch")


def make(root: Path, files: Mapping[str, str] = {}, programs: tuple[str, ...] = PROGRAMS) -> Path:
    """Creates the file system below `root`, with these additional files; files that begin with #!
    are executable.
    """
    for name in ("usr/bin", "usr/lib", "etc", "srv"):
        (root / name).mkdir(parents=True)
    for name in programs:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found, name
        copy(Path(found), root / "usr/bin" / name)
        output = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for word in output.split():
            if word.startswith("/"):
                target = root / word[1:]
                if not target.exists():
                    copy(Path(word), target)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/sh").symlink_to("dash")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    return root


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), target)
    target.chmod(0o755)


def packed(root: Path) -> bytes:
    """The tree as one archive, with the owners and modes that it has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, "./")
    return out.getvalue()
