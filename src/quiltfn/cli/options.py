"""Options that several commands share, said once: a parameter that is a group of options."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from msgspec import UNSET


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The function as Typer is to see it: a parameter whose type is a dataclass is replaced by an
    option for each of its fields.
    """
    parameters = inspect.signature(function).parameters
    groups: dict[str, Any] = {
        name: one.annotation
        for name, one in parameters.items()
        if dataclasses.is_dataclass(one.annotation)
    }
    seen = [one for name, one in parameters.items() if name not in groups]
    for group in groups.values():
        for field in dataclasses.fields(group):
            default = field.default
            if default is dataclasses.MISSING:
                default = inspect.Parameter.empty
            seen.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=field.type,
                )
            )

    @functools.wraps(function)
    def run(**given: Any) -> None:
        made = {
            name: group(
                **{field.name: given.pop(field.name) for field in dataclasses.fields(group)}
            )
            for name, group in groups.items()
        }
        function(**given, **made)

    run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in seen}
    return run


KEEPS = "What a call leaves in /tmp, and in an interpreter, is there for an instance's next call."
Environment = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="An environment variable; repeatable."),
]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What create and update can say of a function; None where nothing was said."""

    runtime: Annotated[str | None, typer.Option(help="What kind of handler it is.")] = None
    description: Annotated[str | None, typer.Option(help="A sentence about it.")] = None
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory limit.")] = None
    cpu: Annotated[float | None, typer.Option(metavar="PERCENT", help="100 is one core.")] = None
    timeout: Annotated[int | None, typer.Option(metavar="SECONDS", help="Of one call.")] = None
    env: Environment = None
    min_instances: Annotated[
        int | None, typer.Option("--min", metavar="N", help="Instances kept warm.")
    ] = None
    max_instances: Annotated[
        int | None, typer.Option("--max", metavar="N", help="Instances at most.")
    ] = None
    workdir: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the handler starts.")
    ] = None

    def wire(self) -> dict[str, Any]:
        """By the names of the API; what was not said is unset."""
        said = {
            "runtime": self.runtime,
            "description": self.description,
            "memory_limit_mb": self.memory,
            "cpu_limit_percent": self.cpu,
            "timeout_seconds": self.timeout,
            "environment": parse_environment(self.env) or None,
            "min_instances": self.min_instances,
            "max_instances": self.max_instances,
            "working_directory": self.workdir,
        }
        return {name: UNSET if value is None else value for name, value in said.items()}


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What only update can say: fields that create demands, and what to take back."""

    name: Annotated[str | None, typer.Option(help="A new name.")] = None
    handler: Annotated[str | None, typer.Option(help="What runs.")] = None
    keep_state: Annotated[
        bool | None,
        typer.Option("--keep-state/--clean", help=KEEPS),
    ] = None
    unset_description: Annotated[
        bool, typer.Option("--unset-description", help="No description.")
    ] = False
    unset_workdir: Annotated[
        bool, typer.Option("--unset-workdir", help="Start where the image says.")
    ] = False
    unset_env: Annotated[bool, typer.Option("--unset-env", help="No environment variables.")] = (
        False
    )

    def wire(self, fields: Fields) -> dict[str, Any]:
        """With `fields`, by the names of the API. Raises `BadParameter` for contradictions."""
        said = fields.wire()
        taken_back: list[tuple[str, bool, object, str]] = [
            ("description", self.unset_description, None, "--description"),
            ("working_directory", self.unset_workdir, None, "--workdir"),
            ("environment", self.unset_env, {}, "--env"),
        ]
        for name, is_unset, empty, option in taken_back:
            if is_unset and said[name] is not UNSET:
                unset = option.replace("--", "--unset-")
                raise typer.BadParameter(f"give {option} or {unset}, not both")
            if is_unset:
                said[name] = empty
        said["name"] = UNSET if self.name is None else self.name
        said["handler"] = UNSET if self.handler is None else self.handler
        said["cleanup_on_exit"] = UNSET if self.keep_state is None else not self.keep_state
        return said


def parse_environment(pairs: list[str] | None) -> dict[str, str]:
    """KEY=VALUE words as a mapping; the last of a key wins."""
    environment = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"--env takes KEY=VALUE, not {pair!r}")
        environment[key] = value
    return environment
