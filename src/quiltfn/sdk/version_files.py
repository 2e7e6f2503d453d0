"""The files of a function's versions: part of `client.functions`."""

from quiltfn.sdk.methods import Listing, Method, PagedMethod
from quiltfn.sdk.named_function import listing, on
from quiltfn.sdk.request import Flow, get_bytes, segment
from quiltfn.wire import RuntimeFile, RuntimeFilePage


def list_version_files(
    function: str, version: int, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[RuntimeFilePage, RuntimeFile]:
    """The files that a version has at /app, sorted by path."""
    below, paging = f"/versions/{version}/files", {"limit": page_size, "cursor": cursor}
    return listing(below, RuntimeFilePage, lambda page: page.files, paging, function)


def get_version_file(function: str, version: int, path: str) -> Flow[bytes]:
    """A file of a version, by its path in the list of files."""
    inside = "/".join(segment(part) for part in path.split("/"))
    return on(function, f"/versions/{version}/files/{inside}", get_bytes)


class VersionFileMethods:
    """The methods of both clients for files of versions."""

    list_version_files = PagedMethod(list_version_files)
    get_version_file = Method(get_version_file)
