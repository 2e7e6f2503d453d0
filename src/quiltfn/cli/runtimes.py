"""`quiltfn runtimes …`: list, show, add and remove runtimes. Only operators change shared ones."""

import math
import shlex
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from quiltfn.cli import base_images, lock_files, progress, runtime_files, show, tables, tools
from quiltfn.cli.options import FieldsOf, Paging
from quiltfn.cli.packages import Target
from quiltfn.cli.parsing import Argument, BadParameter, Group, Option
from quiltfn.cli.session import Connection, Reveal, Session
from quiltfn.sdk import Image, Runtime
from quiltfn.wire import Kind, NewRuntime

app = Group(name="runtimes", help="List, show, add and remove runtimes.")
Name = Annotated[str, Argument(help="Runtime name.", completes="runtime")]


@app.command("list")
def list_runtimes(reveal: Reveal = False, *, connection: Connection) -> None:
    """List runtimes."""
    with connection.session(reveal=reveal) as at:
        at.show(at.client.runtimes.list(), tables.runtimes)


@app.command("show")
def show_runtime(name: Name, reveal: Reveal = False, *, connection: Connection) -> None:
    """Show one runtime."""
    with connection.session(reveal=reveal) as at:
        at.show(at.client.runtimes.get(name), tables.runtime)


@app.command()
def files(name: Name, paging: Paging, connection: Connection) -> None:
    """List the files that a runtime has at /app."""
    with connection.session() as at:
        found = at.client.runtimes.list_files(name, **paging.fields())
        at.show(found.first(), tables.runtime_files)


@app.command("packages")
def list_packages(name: Name, connection: Connection) -> None:
    """List the packages among a runtime's files."""
    with connection.session() as at:
        at.show(at.client.runtimes.list_packages(name), tables.runtime_packages)


@app.command()
def outdated(paging: Paging, connection: Connection) -> None:
    """List functions whose runtime was replaced after their version was created.

    They keep the old runtime until their next update.
    """
    with connection.session() as at:
        found = at.client.functions.list_summaries(outdated=True, **paging.fields())
        at.show(found.first(), tables.outdated_functions)


@app.command()
def remove(
    name: Name,
    connection: Connection,
    *,
    shared: Annotated[
        bool,
        Option(("--shared",), help="Remove the runtime shared by all tenants; operators only."),
    ] = False,
) -> None:
    """Remove a runtime. Existing versions of functions keep it; new versions cannot use it."""
    with connection.session() as at:
        at.client.runtimes.remove(name, shared=shared)
        at.say(f"removed {name}", removed=True, name=name)


class FilesOptions(Struct, frozen=True, kw_only=True):
    """The origin of a runtime's files."""

    directory: Annotated[
        Path | None,
        Option(
            ("--dir",), metavar="DIR", help="Directory with the files for /app.", is_directory=True
        ),
    ] = None
    requirements: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Python packages: requirements.txt, pylock.toml or uv.lock (default: that of "
            "DIR).",
            is_file=True,
        ),
    ] = None
    upgrade: Annotated[
        bool,
        Option(
            ("--upgrade",), help="Reinstall packages even if a runtime has some from the same list."
        ),
    ] = False
    timeout: Annotated[
        int,
        Option(
            metavar="SECONDS",
            least=1,
            help="Timeout of each download program (skopeo, uv, pip, npm, pnpm).",
        ),
    ] = tools.TIMEOUT_SECONDS


class BaseOptions(Struct, frozen=True, kw_only=True):
    """The root file system of a runtime (default: the host's)."""

    image: Annotated[
        str | None,
        Option(
            metavar="REF",
            help="Base image: a container image by reference, archive or OCI layout.",
        ),
    ] = None
    rootfs: Annotated[
        Path | None,
        Option(metavar="DIR|TAR", help="Base image as a directory or tar archive."),
    ] = None
    auth_file: Annotated[
        Path | None,
        Option(metavar="FILE", help="Registry credentials, in skopeo's format.", is_file=True),
    ] = None
    cert_dir: Annotated[
        Path | None,
        Option(metavar="DIR", help="Registry certificates.", is_directory=True),
    ] = None
    insecure: Annotated[
        bool, Option(("--insecure-registry",), help="Allow registries without verified TLS.")
    ] = False

    @property
    def is_named(self) -> bool:
        """Whether a base image is to be uploaded."""
        return self.image is not None or self.rootfs is not None

    def check(self, digest: str | None) -> None:
        """`digest`: of --base-image. Raises `BadParameter` if options contradict each other."""
        if sum(root is not None for root in (self.image, self.rootfs, digest)) > 1:
            raise BadParameter("give only one of --image, --rootfs and --base-image")
        if self.image is None and (self.auth_file or self.cert_dir or self.insecure):
            raise BadParameter("--auth-file, --cert-dir and --insecure-registry require --image")


@app.command()
def add(
    name: Name,
    *,
    files: FilesOptions,
    base: BaseOptions,
    command: Annotated[
        str | None, Option(help="Program and arguments of a custom runtime.")
    ] = None,
    fields: Annotated[dict[str, Any], FieldsOf(NewRuntime, leave_out=["name", "image", "command"])],
    connection: Connection,
) -> None:
    """Add or replace a runtime.

    Packages are installed on this machine, as wheels and without running their scripts, unless a
    runtime already has those of the same list. Functions keep their files until they are updated.
    """
    began = time.monotonic()
    kind = Kind(fields["kind"])
    if files.requirements is not None and kind not in runtime_files.WITH_PYTHON:
        kinds = " and ".join(f"--kind {one}" for one in runtime_files.WITH_PYTHON)
        raise BadParameter(f"--requirements is only for {kinds}")
    base.check(fields.get("base_image"))
    if command is not None:
        fields["command"] = shlex.split(command)
    source = runtime_files.Source(
        kind=kind,
        directory=files.directory,
        requirements=_requirements(kind, files),
        shared=fields.get("shared", False),
        is_fresh=files.upgrade,
    )
    with connection.session() as at, tools.time_limit(files.timeout):
        uploaded = made_of(at, source, base, fields.get("base_image"))
        variables = uploaded.fields.pop("environment", {})
        if variables:
            fields["environment"] = variables | fields.get("environment", {})
        fields |= uploaded.fields

        def added(runtime: Runtime) -> None:
            show.say(f"{runtime.name} is {runtime.kind}: {runtime.image_digest}")
            if uploaded.sent:
                show.note(f"{uploaded.said()}, {time.monotonic() - began:.1f} s")

        if base.is_named:  # the caller has set these by other options
            at.options["base_image"] = "--rootfs" if base.image is None else "--image"
        at.show(at.client.runtimes.add(name=name, **fields), added)


def made_of(
    at: Session, source: runtime_files.Source, base: BaseOptions, digest: str | None = None
) -> runtime_files.Uploaded:
    """Upload the parts of a runtime that the server lacks. `digest`: of a root file system that was
    uploaded before. Raises `BadParameter`, and as the client does.
    """
    root = _base_image(at, base)
    digest = digest if root is None else root.digest
    done = runtime_files.upload(at, source, partial(_python, at, root, digest))
    if root is not None:
        done.fields["base_image"] = root.digest
        done.fields["environment"] = base_images.variables_of(root.environment)
        done.sent.append(root)
    return done


def _base_image(at: Session, base: BaseOptions) -> Image | None:
    """Upload the root file system. None: the runtime uses the host's."""
    registry = base_images.Registry(base.auth_file, base.cert_dir, not base.insecure)
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as made:
        archive = Path(made) / "image.tar"
        if base.image is not None:
            archive = base_images.archive_of(
                base.image, archive, registry, processor=lambda: at.processor
            )
            return at.upload(archive, "image")
        if base.rootfs is None:
            return None
        if base.rootfs.is_dir():
            with progress.step(f"packing {base.rootfs}"):
                base_images.pack_rootfs(base.rootfs, archive)
        elif base.rootfs.is_file():
            archive = base.rootfs
        else:
            raise BadParameter(f"--rootfs: there is no {base.rootfs}")
        if archive.stat().st_size > at.info.limits.get("image_upload_bytes", math.inf):
            archive = base_images.compressed(archive, Path(made))
        return at.upload(archive, "rootfs")


def _python(at: Session, base: Image | None, digest: str | None) -> Target | None:
    """The Python that runs the runtime's handlers. None: only the digest of its base image is
    known. The C library of a base image is unknown. Raises `BadParameter` if there is no Python.
    """
    if digest is None:
        return runtime_files.target_of(at)
    if base is None:
        return None
    interpreter = base.interpreters.get("python")
    if interpreter is None:
        raise BadParameter("the base image has no python3")
    return Target(interpreter=interpreter, architecture=at.processor)


def _requirements(kind: Kind, files: FilesOptions) -> Path | None:
    """The file that lists Python packages, if there is one."""
    takes_them = kind in runtime_files.WITH_PYTHON
    if files.requirements is None and takes_them and files.directory is not None:
        return lock_files.find(files.directory)
    return files.requirements
