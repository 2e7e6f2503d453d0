"""What an archive may contain. Pure: the functions take names and links, and raise refusals.

Rule 1: every name stays below the image's root.
Rule 2: a link in the files at /app must lead to these files or to /usr. A link in a root file
system may have any target, since it is only followed inside the sandbox.
Rule 3: a refusal names the member, and changes nothing.
"""

import posixpath
import re

from quiltfn.model.errors import Unprocessable, truncate

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 1024
DEPTH_MAX = 64
WHITEOUT = ".wh."
SET_ID = 0o6000
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def refusal(why: str, name: str | None = None) -> Unprocessable:
    """The error for an image that is refused for the reason `why`, in its member `name`."""
    if name is None:
        return Unprocessable(f"the image is refused: {why}")
    shown = truncate(name.encode("utf-8", "backslashreplace").decode(), 200)
    return Unprocessable(f"the image is refused: {shown!r} {why}", details={"received": shown})


def parts_of(name: str) -> tuple[str, ...]:
    """Splits a member's path from the image's root into parts; () is the root itself."""
    if name.startswith("/"):
        raise refusal("has an absolute path", name)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise refusal("has a .. in its path", name)
    if len(parts) > DEPTH_MAX:
        raise refusal(f"lies deeper than {DEPTH_MAX} directories", name)
    if sum(len(_encoded(part, name)) + 1 for part in parts) > PATH_MAX_BYTES:
        raise refusal(f"has a path of more than {PATH_MAX_BYTES} bytes", name)
    for part in parts:
        if len(_encoded(part, name)) > NAME_MAX_BYTES:
            raise refusal(f"has a name of more than {NAME_MAX_BYTES} bytes", name)
        if has_controls(part):
            raise refusal("has control characters in its name", name)
    return parts


def check_no_whiteout(parts: tuple[str, ...], name: str) -> None:
    """Refuses whiteouts, which remove entries of lower layers, in an archive without layers."""
    if any(part.startswith(WHITEOUT) for part in parts):
        raise refusal("is a whiteout: upload the merged tree instead of a layer", name)


def check_mode(mode: int, name: str) -> None:
    """Refuses setuid and setgid bits: such a program would run as another user."""
    if mode & SET_ID:
        raise refusal("has the setuid or setgid bit", name)


def check_target(parts: tuple[str, ...], target: str) -> None:
    """Refuses a symbolic link at `parts` whose target is not a valid path."""
    name = "/".join(parts)
    if not target or len(_encoded(target, name)) > PATH_MAX_BYTES or has_controls(target):
        raise refusal("is a link to an invalid path", name)


def check_link(parts: tuple[str, ...], target: str) -> None:
    """Refuses a symbolic link at `parts` to a `target` that the files at /app may not link to."""
    check_target(parts, target)
    name = "/".join(parts)
    if target.startswith("/"):
        normal = posixpath.normpath("/" + target.lstrip("/"))
        if not any(normal == tree or normal.startswith(tree + "/") for tree in ("/app", "/usr")):
            raise refusal("is a link that leads outside of /app and /usr", name)
        return
    depth = len(parts) - 1
    for step in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(step, 1)
        if depth < 0:
            raise refusal("is a link that leads outside of the image", name)


def has_controls(text: str) -> bool:
    return CONTROLS.search(text) is not None


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise refusal("has a name that is not UTF-8", name) from None
