"""Base images: gets a root file system for `quiltfn runtimes add`, and packs it.

skopeo contacts registries from the user's machine, so that the registries' credentials stay there,
and the server connects to no address that a caller chooses. The result is uploaded like any
archive, and the server does not trust it.
"""

import gzip
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from quiltfn.base.cpu_arch import name_in_images
from quiltfn.cli import progress, show, tools
from quiltfn.cli.parsing import BadParameter

# skopeo's names for an image's location; a reference without one of these is in a registry.
TRANSPORT = re.compile(
    r"(docker|oci|oci-archive|docker-archive|docker-daemon|containers-storage|dir):"
)
REGISTRY = "docker://"
PINNED = re.compile(r".*@sha256:[0-9a-f]{64}")
TAG = re.compile(r":[A-Za-z0-9_][A-Za-z0-9._-]*$")
# The sentence in a line of skopeo's log.
SENTENCE = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
# Variables that only matter while an image is built, and variables that a sandbox sets itself.
NOT_PASSED_ON = re.compile(
    r"HOME|HOSTNAME|TERM|USER|GPG_KEY|NODE_VERSION|YARN_VERSION|PYTHON_(VERSION|SHA256|PIP_VERSION"
    r"|SETUPTOOLS_VERSION|GET_PIP_URL|GET_PIP_SHA256)|QUILT_.*"
)


class Registry(Struct, frozen=True):
    """How registries are contacted. `auth_file`: the credentials; None: skopeo's own. `certs`: a
    directory with certificates. `verifies_tls`: whether certificates are verified.
    """

    auth_file: Path | None = None
    certs: Path | None = None
    verifies_tls: bool = True

    def options(self, prefix: str) -> list[str]:
        """The options for skopeo's command line, for the source of an image."""
        chosen = [f"--{prefix}tls-verify={'true' if self.verifies_tls else 'false'}"]
        if self.auth_file is not None:
            chosen += [f"--{'src-' if prefix else ''}authfile={self.auth_file}"]
        if self.certs is not None:
            chosen += [f"--{prefix}cert-dir={self.certs}"]
        return chosen


def pack_rootfs(directory: Path, archive: Path) -> None:
    """Pack a root file system without devices, pipes and sockets. Raises `BadParameter`."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        try:
            for path, relative in _walk(directory, ""):
                info = tar.gettarinfo(str(path), relative)
                if info is None or not (
                    info.isreg() or info.isdir() or info.issym() or info.islnk()
                ):
                    continue
                if not info.isreg():
                    tar.addfile(info)
                    continue
                with path.open("rb") as file:
                    tar.addfile(info, file)
        except OSError as error:
            raise BadParameter(f"{directory} cannot be packed: {error}") from None


def _walk(directory: Path, below: str) -> Iterator[tuple[Path, str]]:
    """Every path of a tree, and its path relative to the root. Links are not followed."""
    for found in sorted(os.scandir(directory), key=lambda entry: entry.name):
        path, relative = Path(found.path), f"{below}{found.name}"
        yield path, relative
        if found.is_dir(follow_symlinks=False):
            yield from _walk(path, f"{relative}/")


def compressed(archive: Path, made: Path) -> Path:
    """A compressed copy of an archive, in the directory `made`; or the archive if it is already
    compressed.
    """
    if archive.suffix in (".gz", ".tgz"):
        return archive
    shorter = made / "compressed.tar.gz"
    with archive.open("rb") as whole, gzip.open(shorter, "wb", compresslevel=1) as out:
        shutil.copyfileobj(whole, out, 1 << 20)
    return shorter


def archive_of(
    reference: str, made: Path, registry: Registry, processor: Callable[[], str]
) -> Path:
    """The path of an image's archive: `reference` if it is an archive's path, otherwise `made`. If
    `reference` is the path of an OCI layout, the layout is packed into `made`; otherwise skopeo
    copies the image there. `processor`: the image's CPU architecture. Raises `BadParameter`.
    """
    path = Path(reference)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / "oci-layout").is_file():
            raise BadParameter(f"{path} is not an OCI layout; for a root file system use --rootfs")
        pack_rootfs(path, made)
        return made
    source = reference if TRANSPORT.match(reference) else REGISTRY + reference
    if source.startswith(REGISTRY):
        source = _pinned(source, registry)
        show.note(f"pulling {source.removeprefix(REGISTRY)}")
    chosen = ["--override-os=linux", f"--override-arch={name_in_images(processor())}"]
    copied = ["copy", "--quiet", *registry.options("src-"), "--", source, f"oci-archive:{made}"]
    # For skopeo's layers: they are removed even if skopeo had to be killed.
    with (
        tempfile.TemporaryDirectory(prefix="quiltfn-", dir=_roomy()) as aside,
        progress.step("pulling"),
    ):
        _skopeo([*chosen, f"--tmpdir={aside}", *copied])
    return made


def _pinned(source: str, registry: Registry) -> str:
    """The reference with the digest: a tag could be moved before the copy."""
    if PINNED.fullmatch(source):
        return source
    asked = ["inspect", "--format={{.Digest}}", "--no-tags", *registry.options(""), "--", source]
    digest = _skopeo(asked).strip()
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise BadParameter(f"skopeo does not report the digest of {source}")
    return f"{TAG.sub('', source)}@{digest}"


def _skopeo(arguments: list[str]) -> str:
    program = tools.found("skopeo")
    if program is None:
        raise BadParameter(
            "images are copied by skopeo, which is not installed: apt install skopeo"
        )
    done = tools.run([program, *arguments])
    if done.returncode:
        info = tools.said(done)
        sentence = SENTENCE.search(info)
        why = re.sub(r"\\(.)", r"\1", sentence[1]) if sentence else info
        raise BadParameter(f"--image: skopeo failed: {show.quoted(why)}")
    return done.stdout


def _roomy() -> str | None:
    """A temporary directory on disk, since an image and its archive may not fit into /tmp."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


def variables_of(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of an image that its programs need when they run."""
    return {name: value for name, value in given.items() if not NOT_PASSED_ON.fullmatch(name)}
