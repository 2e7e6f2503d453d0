"""Reads the current state of a project on a server."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from quiltfn.cli.parsing import Exit
from quiltfn.cli.project.plan import LABEL, LIVE, CurrentFunction, CurrentState
from quiltfn.cli.session import Session
from quiltfn.cli.show import complain
from quiltfn.sdk import NotFoundError
from quiltfn.wire.keys import SCOPES

NEEDED_SCOPE = "write"
# Number of parallel requests, since a server's latency may be high.
AT_ONCE = 8


def check_scope(at: Session) -> None:
    """Raise `Exit` if the key's scope is too small to see all compared values."""
    scope = at.client.system.whoami().scope
    if SCOPES.index(scope) < SCOPES.index(NEEDED_SCOPE):
        complain(
            f"the key has scope {scope}, but projects need scope {NEEDED_SCOPE}",
            f"quiltfn keys create --scope {NEEDED_SCOPE}, on the server's machine",
        )
        raise Exit(1)


def find(
    at: Session, project: str, names: Collection[str], *, with_aliases: bool = False
) -> CurrentState:
    """The server's state of the project, and of functions with these names."""
    client = at.client
    label = f"{LABEL}{project}"
    ids = {one.name: one.id for one in client.functions.list_summaries(cluster_id=label)}
    others = set(names) - ids.keys()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        asked = [*ids.values(), *others]
        functions = [
            one
            for one in threads.map(lambda function: _function(at, function, with_aliases), asked)
            if one
        ]
    return CurrentState(
        functions={one.function.name: one for one in functions},
        schedules={one.name: one for one in client.schedules.list()},
        runtimes={one.name: one for one in client.runtimes.list()},
    )


def _function(at: Session, name_or_id: str, with_aliases: bool) -> CurrentFunction | None:
    """A function with everything that belongs to it. None: it does not exist."""
    functions = at.client.functions
    try:
        function, etag = functions.get_with_etag(name_or_id)
        url = None
        with suppress(NotFoundError):
            url = functions.get_url(function.id, reveal=True)
        live = None
        if with_aliases:
            aliases = functions.list_aliases(function.id).aliases
            live = next((each for each in aliases if each.name == LIVE), None)
        return CurrentFunction(
            function=function,
            etag=etag,
            url=url,
            async_policy=functions.get_async_policy(function.id),
            record_policy=functions.get_record_policy(function.id),
            live=live,
        )
    except NotFoundError:
        return None
