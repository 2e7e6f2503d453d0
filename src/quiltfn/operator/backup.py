"""`quiltfn backup FILE` and `quiltfn restore FILE`: all data of a server, in one archive.

Root opens the archive; the data directory is read or written as its owner (see `owner.py`).
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from quiltfn import __version__
from quiltfn.base.clock import unix_ms
from quiltfn.operator.archive import DIGEST, FILES, ImageVanished, Manifest, Reader, Writer
from quiltfn.operator.outcome import FINE, REFUSED, run_and_report
from quiltfn.operator.owner import become_owner
from quiltfn.settings import from_everywhere
from quiltfn.store import StoreBroken
from quiltfn.store.backup import snapshot
from quiltfn.store.backup.restore import replace_data

TRIES = 3
ELSEWHERE = "back it up with pg_dump and restore it with pg_restore"


def backup(arguments: Sequence[str]) -> int:
    """Creates an archive; returns the exit code."""
    given = backup_parser().parse_args(arguments)
    return run_and_report(
        lambda: _backup(Path(given.file).absolute(), _data_dir(given), given.replace)
    )


def restore(arguments: Sequence[str]) -> int:
    """Restores an archive; returns the exit code."""
    given = restore_parser().parse_args(arguments)
    return run_and_report(lambda: _restore(Path(given.file), _data_dir(given), given.replace))


# Backup -----------------------------------------------------------------------------------------


def _backup(file: Path, data_dir: Path, replace: bool) -> str:
    if file.exists() and not replace:
        raise FileExistsError(17, "the file exists; choose another, or use --replace", str(file))
    if not (data_dir / "quiltfn.db").exists():
        message = f"There is no database in {data_dir}; name it with --data-dir."
        if (data_dir / "quiltfn.lock").exists():
            message += f" If the state is in PostgreSQL, as in a fleet: {ELSEWHERE}."
        raise StoreBroken(message)
    if file.resolve().is_relative_to(data_dir.resolve()):
        raise StoreBroken(f"{file} is in the data directory: choose another place.")
    with _beside(file) as work:
        target = work / "snapshot"
        target.mkdir(mode=0o700)
        owner = data_dir.stat()
        if os.geteuid() == 0:
            os.chown(target, owner.st_uid, owner.st_gid)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(work / "archive", flags, 0o600), "w+b") as archive:
            code = _in_child(lambda: _write(archive, data_dir, target))
        if code != FINE:
            raise SystemExit(code)
        (work / "archive").replace(file)
        _sync(file.parent)
    return f"saved to {file} ({file.stat().st_size} bytes)"


def _write(archive: BinaryIO, data_dir: Path, target: Path) -> str:
    """Run by the owner of the data: takes the snapshot, writes the archive, and verifies it."""
    become_owner(data_dir, (target,))
    for _ in range(TRIES):
        with contextlib.suppress(ImageVanished):
            found = snapshot.take(data_dir, target)
            kept = _write_once(archive, data_dir / "images", target, found)
            break
    else:
        raise StoreBroken("Images were repeatedly removed while they were read; try again.")
    read = Reader(archive, "the archive that was just written")
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        for digest in read.images:
            _unpack(read, digest, Path(scratch) / digest)
            shutil.rmtree(Path(scratch) / digest)
    return _counts(found.functions, found.records, kept)


def _write_once(archive: BinaryIO, images: Path, target: Path, found: snapshot.Snapshot) -> int:
    there = {one.name for one in images.iterdir()} if images.is_dir() else set()
    digests = {one for one in there if DIGEST.fullmatch(one)}
    missing = found.images - digests
    if missing:
        raise StoreBroken(f"The files of an image are missing: {images / min(missing)}.")
    writer = Writer(archive)
    for name in FILES:
        writer.add_file(name, target / name)
        (target / name).unlink()
    for digest in sorted(digests):
        writer.add_image(images, digest)
    writer.finish(
        quiltfn=__version__,
        revision=found.revision,
        made_at=unix_ms() // 1000,
        functions=found.functions,
        records=found.records,
        images=len(digests),
    )
    return len(digests)


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Creates a temporary directory beside the file, which other users cannot change."""
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{file.name}-", dir=file.parent))
    except OSError as error:  # the error names the parent instead of the temporary directory
        raise OSError(error.errno, error.strerror, str(file.parent)) from None
    work.chmod(0o711)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _in_child(work: Callable[[], str]) -> int:
    """Runs `work` in a child process, which may change its user; returns its exit code."""
    pid = os.fork()
    if pid:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except BaseException:  # a signal ends this command
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
            raise
    code = REFUSED
    try:
        code = run_and_report(work)
        sys.stdout.flush()
    except Exception:  # a bug, which would otherwise stay unreported
        traceback.print_exc()
    finally:
        os._exit(code)


# Restore ----------------------------------------------------------------------------------------


def _restore(file: Path, data_dir: Path, replace: bool) -> str:
    with file.open("rb") as archive:
        read = Reader(archive, str(file))
        snapshot.check_revision(read.manifest.revision)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        become_owner(data_dir)
        with replace_data(data_dir, replace) as place:
            _lay_out(read, place)
            found = snapshot.look_through(place / FILES[0])
            missing = found.images - set(read.images)
            if missing:
                raise StoreBroken(f"{file} lacks the image {min(missing)}.")
    return f"{data_dir} is as it was at {_when(read.manifest)}: {_what(read.manifest)}"


def _lay_out(read: Reader, place: Path) -> None:
    for name in FILES:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(place / name, flags, 0o600), "wb") as target:
            read.copy(name, target)
    images = place / "images"
    images.mkdir(mode=0o700)
    for digest in read.images:
        _unpack(read, digest, images / digest)


def _unpack(read: Reader, digest: str, target: Path) -> None:
    target.mkdir(mode=0o755)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        read.unpack(digest, root)
    finally:
        os.close(root)


# Both -------------------------------------------------------------------------------------------


def _sync(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _when(manifest: Manifest) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.made_at))


def _what(manifest: Manifest) -> str:
    return _counts(manifest.functions, manifest.records, manifest.images)


def _counts(functions: int, records: int, images: int) -> str:
    return f"functions: {functions}, invocation records: {records}, images: {images}"


def _data_dir(given: argparse.Namespace) -> Path:
    chosen = from_everywhere({"data_dir": given.data_dir, "config": given.config})
    if chosen.store:
        raise StoreBroken(
            f"The store is {chosen.store}: {ELSEWHERE}, and also back up the files of runtimes "
            f"({chosen.data_dir}/images)."
        )
    if chosen.fleet != Path():
        raise StoreBroken(
            f"This is a node of a fleet, whose state is in the database that {chosen.fleet} names: "
            f"{ELSEWHERE}, and also back up the files of runtimes of all nodes "
            f"({chosen.data_dir}/images)."
        )
    return chosen.data_dir


def backup_parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn backup",
        description="Save everything that a server stores to one archive, whether it runs or not: "
        "functions, keys, invocation records, the files of runtimes.",
        epilog="exit codes: 0 written and verified · 1 FILE cannot be written · 74 the data "
        "directory is damaged or empty · 78 a setting is wrong",
    )
    it.add_argument(
        "file", metavar="FILE", help="the archive to create; it appears once it is complete"
    )
    it.add_argument("--replace", action="store_true", help="replace FILE if it exists")
    _add_common(it)
    return it


def restore_parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn restore",
        description="Restore a data directory to its state at the time of the backup. No server "
        "may use it.",
        epilog="exit codes: 0 done · 1 FILE cannot be read · 74 FILE is damaged, or the data "
        "directory is in use or not empty · 78 a setting is wrong",
    )
    it.add_argument("file", metavar="FILE", help="an archive of quiltfn backup")
    it.add_argument(
        "--replace",
        action="store_true",
        help="if the directory is not empty, move its content into replaced-… in it",
    )
    _add_common(it)
    return it


def _add_common(it: argparse.ArgumentParser) -> None:
    it.add_argument("--data-dir", help="the server's data directory (default ./data)")
    it.add_argument("--config", help="the server's settings file")
