"""`client.runtimes`: runtimes and their files."""

from pathlib import Path

from quiltfn.sdk.methods import (
    AnyClient,
    Group,
    Listing,
    Method,
    PagedMethod,
    every,
    with_fields_of,
)
from quiltfn.sdk.named_function import listing
from quiltfn.sdk.request import Flow, Request, as_json, ask, delete, get, post, query, segment
from quiltfn.wire import (
    Image,
    NewRuntime,
    Runtime,
    RuntimeFile,
    RuntimeFilePage,
    RuntimeList,
    RuntimePackageList,
)

BASE = "/api/runtimes"
UPLOAD_READ_S = 600.0  # the server responds once it has unpacked and stored every file


def list_runtimes() -> Flow[list[Runtime]]:
    """All runtimes that the tenant's functions can use, built-in ones first."""
    return every(
        lambda after: ask(get(f"{BASE}{query(cursor=after)}", RuntimeList)),
        lambda page: page.runtimes,
    )


def get_runtime(name: str) -> Flow[Runtime]:
    """The current runtime with this name."""
    return ask(get(f"{BASE}/{segment(name)}", Runtime))


def list_files(
    name: str, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[RuntimeFilePage, RuntimeFile]:
    """The files that a runtime has at /app, in the order of their paths."""
    path, paging = f"{BASE}/{segment(name)}/files", {"limit": page_size, "cursor": cursor}
    return listing(path, RuntimeFilePage, lambda page: page.files, paging)


def list_packages(name: str) -> Flow[RuntimePackageList]:
    """The Python and Node packages among the files of a runtime."""
    return ask(get(f"{BASE}/{segment(name)}/packages", RuntimePackageList))


@with_fields_of(NewRuntime)
def add_runtime(new: NewRuntime) -> Flow[Runtime]:
    """Add a runtime to the tenant, or replace the one with its name.

    `image`, `packages` and `base_image`: digests that `upload_image` returned. `shared`: for all
    tenants; operators only.
    """
    return ask(post(BASE, Runtime, new, is_repeatable=True))


def remove_runtime(name: str, *, shared: bool = False) -> Flow[None]:
    """Remove a runtime. Existing versions of functions keep it; new versions cannot use it.

    `shared`: the runtime shared by all tenants; operators only.
    """
    return ask(delete(f"{BASE}/{segment(name)}{query(shared=shared or None)}"))


def upload_image(archive: Path | str, *, contents: str = "files") -> Flow[Image]:
    """Upload a runtime's files: a tar archive, gzipped if its name ends in gz.

    `contents`: "files" (for /app), "rootfs" (a root file system), or "image" (a container image as
    an OCI layout or from `docker save`). The last two are for `base_image`.

    Raises ValueError if there is no such file.
    """
    if not isinstance(archive, str | Path):
        raise TypeError(f"archive must be a path, not {type(archive).__name__}")
    archive = Path(archive)
    if not archive.is_file():
        raise ValueError(f"archive: there is no file {archive}")
    is_gzip = archive.suffix in (".gz", ".tgz")
    request = Request(
        method="POST",
        path=f"{BASE}/images{query(contents=None if contents == 'files' else contents)}",
        read=as_json(Image),
        headers={"Content-Type": "application/gzip" if is_gzip else "application/x-tar"},
        read_timeout_s=UPLOAD_READ_S,
        archive=archive,
        is_repeatable=True,
    )
    return ask(request)


class Runtimes(Group[AnyClient]):
    """`client.runtimes`."""

    list = Method(list_runtimes)
    get = Method(get_runtime)
    list_files = PagedMethod(list_files)
    list_packages = Method(list_packages)
    add = Method(add_runtime)
    remove = Method(remove_runtime)
    upload_image = Method(upload_image)
