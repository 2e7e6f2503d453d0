"""The files of a function's versions: part of `client.functions`."""

from quiltfn.sdk.methods import Listing, Method, PagedMethod
from quiltfn.sdk.named_function import BASE, on
from quiltfn.sdk.request import Flow, Request, get, query, segment
from quiltfn.wire import RuntimeFile, RuntimeFilePage


def list_version_files(
    function: str, version: int, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[RuntimeFilePage, RuntimeFile]:
    """The files that a version has at /app, in the order of their paths."""

    def page_after(after: str | None) -> Flow[RuntimeFilePage]:
        wanted = query(limit=page_size, cursor=after)
        return on(
            function,
            lambda function_id: get(f"{_files(function_id, version)}{wanted}", RuntimeFilePage),
        )

    return Listing(page_after, lambda page: page.files, cursor)


def get_version_file(function: str, version: int, path: str) -> Flow[bytes]:
    """A file of a version, by the path that the list of its files has."""
    inside = "/".join(segment(part) for part in path.split("/"))
    return on(
        function,
        lambda function_id: Request(
            method="GET",
            path=f"{_files(function_id, version)}/{inside}",
            read=bytes,
            is_repeatable=True,
        ),
    )


def _files(function_id: str, version: int) -> str:
    return f"{BASE}/{segment(function_id)}/versions/{version}/files"


class VersionFileMethods:
    """What both clients can do with the files of versions."""

    list_version_files = PagedMethod(list_version_files)
    get_version_file = Method(get_version_file)
