"""`quiltfn aliases …`: names for versions of a function."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Struct, structs

from quiltfn.cli import scope, show
from quiltfn.cli.parsing import Argument, BadParameter, Group, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.cli.show import TableOf
from quiltfn.wire import Alias, AliasList, AliasShare, RollbackRule

app = Group(name="aliases", help="Name versions of a function, and split invocations between two.")
AliasName = Annotated[str, Argument(help="Alias, such as live.", completes="alias")]
PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,2})?)%")
LEAST, MOST = 0.1, 99.9  # percent: shares of the invocations, and error rates


class AliasOptions(Struct, frozen=True, kw_only=True):
    """Which invocations run on which version."""

    also: Annotated[
        str | None,
        Option(
            metavar="VERSION=PERCENT",
            help="Second version and its share of the invocations, such as 4=10%.",
        ),
    ] = None
    default: Annotated[
        bool | None,
        Option(
            ("--default",),
            off="--no-default",
            help="Make it the default alias, for invocations without version or alias (default: no "
            "change).",
        ),
    ] = None


class RollbackOptions(Struct, frozen=True, kw_only=True):
    """When the version of --also is rolled back."""

    error_rate: Annotated[
        str | None,
        Option(metavar="PERCENT", help="Maximum error rate of the --also version, such as 5%."),
    ] = None
    p99_ms: Annotated[
        int | None, Option(least=1, help="Maximum 99th percentile of its latency in ms.")
    ] = None
    within_s: Annotated[int, Option(least=1, help="Monitoring period in seconds, from now.")] = 300

    def rule(self) -> RollbackRule | None:
        """The rule; None: no automatic rollback. Raises `BadParameter`."""
        if self.error_rate is None and self.p99_ms is None:
            return None
        given = self.error_rate
        rate = None if given is None else fraction_of(given, "--error-rate")
        return RollbackRule(error_rate=rate, p99_ms=self.p99_ms, within_s=self.within_s)


@app.command("list")
def list_aliases(
    name_or_id: NameOrAll = None, *, all_functions: AllFunctions = False, connection: Connection
) -> None:
    """List the aliases of one function, of the project in this directory, or of all functions."""
    scope.check(name_or_id, all_functions)
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        if name_or_id is not None:
            at.show(functions.list_aliases(name_or_id), _table)
            return
        label = scope.label(all_functions=all_functions)
        summaries = functions.list_summaries(cluster_id=label)
        names = {function.id: function.name for function in summaries}
        pages = scope.each(functions.list_aliases, names)
        found = [(names[of], alias) for of, page in pages.items() for alias in page.aliases]
        body = [{"function_name": name} | structs.asdict(alias) for name, alias in found]
        at.print(found, show.encoded({"aliases": body}), _table_of_all)


@app.command("set")
def set_alias(
    name_or_id: NameOrId,
    alias: AliasName,
    version: Annotated[int, Argument(help="Version that the alias names.")],
    *,
    options: AliasOptions,
    rules: RollbackOptions,
    connection: Connection,
) -> None:
    """Create or replace an alias of a function. Invoke it with: quiltfn invoke NAME@ALIAS

    With --error-rate or --p99-ms, the --also version is rolled back automatically if its own
    invocations fail more often or are slower.
    """
    share = None if options.also is None else _share(options.also)
    rule = rules.rule()
    if rule is not None and share is None:
        raise BadParameter("--error-rate and --p99-ms go with --also")
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        made = functions.set_alias(
            name_or_id, alias, version, also=share, rollback_on=rule, default=options.default
        )
        at.show(made, lambda made: show.say(in_words(made)))


@app.command("remove")
def remove_alias(name_or_id: NameOrId, alias: AliasName, connection: Connection) -> None:
    """Remove an alias of a function."""
    with connection.session(name_or_id) as at:
        at.client.functions.delete_alias(name_or_id, alias)
        at.say(f"{alias} is removed", deleted=True)


def fraction_of(text: str, option: str) -> float:
    """The fraction for a percentage. Raises `BadParameter`."""
    found = PERCENT.fullmatch(text)
    if found is None or not LEAST <= float(found[1]) <= MOST:
        expected = f"a percentage from {LEAST}% to {MOST}%, such as 5%"
        raise BadParameter(f"{option} must be {expected}, not {text!r}")
    return round(float(found[1]) / 100, 4)


def _share(text: str) -> AliasShare:
    version, _, part = text.partition("=")
    if not re.fullmatch("[0-9]{1,9}", version) or not part:
        raise BadParameter(f"--also must be VERSION=PERCENT, such as 4=10%, not {text!r}")
    return AliasShare(version=int(version), weight=fraction_of(part, "--also"))


def in_words(alias: Alias) -> str:
    """A sentence that describes an alias."""
    also = alias.also
    percent = "" if also is None else show.percent(also)
    share = "" if also is None else f", and version {also.version} for {percent} of its invocations"
    of = "; invocations without a version or alias use it" if alias.default else ""
    return f"{alias.name} is version {alias.version}{share}{of}"


COLUMNS: dict[str, Callable[[Alias], object]] = {
    "ALIAS": lambda alias: alias.name,
    "VERSION": lambda alias: alias.version,
    "ALSO": lambda alias: f"{alias.also.version}={show.percent(alias.also)}" if alias.also else "",
    "DEFAULT": lambda alias: "yes" if alias.default else "",
    "CHANGED": lambda alias: show.when(alias.updated_at),
    "ROLLED BACK": lambda alias: alias.rolled_back or "",
}
_table = TableOf[AliasList, Alias](lambda found: found.aliases, COLUMNS, drop=("CHANGED",))


def _table_of_all(found: Sequence[tuple[str, Alias]]) -> None:
    rows = [(name, *(cell(alias) for cell in COLUMNS.values())) for name, alias in found]
    show.table(("FUNCTION", *COLUMNS), rows, drop=("CHANGED",))
