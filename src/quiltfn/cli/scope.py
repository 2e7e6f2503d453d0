"""Selects functions for a command: one by name, or those of a project or a tenant."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from quiltfn.cli import show
from quiltfn.cli.parsing import Argument, BadParameter, Option
from quiltfn.cli.project import PROJECT_FILE
from quiltfn.cli.session import Session
from quiltfn.sdk import NotFoundError

T = TypeVar("T")

# Number of parallel requests, and the maximum length of a list (default of --limit).
AT_ONCE, SHOWN = 8, 50

NameOrAll = Annotated[
    str | None,
    Argument(
        metavar="NAME_OR_ID",
        help="Function (default: those of the project in this directory, or all).",
        completes="function",
    ),
]
AllFunctions = Annotated[
    bool,
    Option(
        ("--all-functions",), help="All functions of the tenant, even in a project's directory."
    ),
]


def check(name: str | None, all_functions: bool) -> None:
    """Raise `BadParameter` for a name together with --all-functions."""
    if name is not None and all_functions:
        raise BadParameter("give a name or --all-functions, not both")


def functions(
    at: Session, name: str | None = None, *, all_functions: bool
) -> dict[str, str] | None:
    """The names of functions by id: of the named function, or of the project. None: all functions
    of the tenant. Raises `BadParameter`.
    """
    check(name, all_functions)
    if name is not None:
        function = at.client.functions.get(name)
        return {function.id: function.name}
    wanted = label(all_functions=all_functions)
    if wanted is None:
        return None
    found = at.client.functions.list_summaries(cluster_id=wanted)
    return {function.id: function.name for function in found}


def label(name: str | None = None, *, all_functions: bool) -> str | None:
    """The label of the functions of the project in this directory. None if a name selects the
    function, or for all functions of the tenant. Raises `BadParameter`.
    """
    check(name, all_functions)
    path = Path(PROJECT_FILE)
    if name is not None or all_functions or not path.is_file():
        return None
    from quiltfn.cli.project import file  # noqa: PLC0415 — only in a project
    from quiltfn.cli.project.plan import LABEL  # noqa: PLC0415

    project = file.project_of(path)
    show.note(f"project {project}; --all-functions shows others")
    return f"{LABEL}{project}"


def each(ask: Callable[[str], T], ids: Iterable[str]) -> dict[str, T]:
    """The results of `ask` for each function, in parallel, without functions deleted meanwhile."""

    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 — slow to import

    def found(name: str) -> tuple[str, T] | None:
        try:
            return name, ask(name)
        except NotFoundError:
            return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(one for one in threads.map(found, ids) if one is not None)
