"""Options that several commands share, said once: a parameter that is a group of options."""

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import UNSET

from quiltfn.cli.parsing import BadParameter, Option

KEEPS = "What a call leaves in /tmp, and in an interpreter, is there for an instance's next call."
Environment = Annotated[
    list[str] | None,
    Option(("--env",), metavar="KEY=VALUE", help="An environment variable; repeatable."),
]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What create and update can say of a function; None where nothing was said."""

    runtime: Annotated[str | None, Option(help="What kind of handler it is.")] = None
    description: Annotated[str | None, Option(help="A sentence about it.")] = None
    memory: Annotated[int | None, Option(metavar="MB", help="Memory limit.")] = None
    cpu: Annotated[float | None, Option(metavar="PERCENT", help="100 is one core.")] = None
    timeout: Annotated[int | None, Option(metavar="SECONDS", help="Of one call.")] = None
    env: Environment = None
    min_instances: Annotated[
        int | None, Option(("--min",), metavar="N", help="Instances kept warm.")
    ] = None
    max_instances: Annotated[
        int | None, Option(("--max",), metavar="N", help="Instances at most.")
    ] = None
    workdir: Annotated[str | None, Option(metavar="PATH", help="Where the handler starts.")] = None

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

    name: Annotated[str | None, Option(help="A new name.")] = None
    handler: Annotated[str | None, Option(help="What runs.")] = None
    keep_state: Annotated[
        bool | None,
        Option(("--keep-state",), off="--clean", help=KEEPS),
    ] = None
    unset_description: Annotated[bool, Option(("--unset-description",), help="No description.")] = (
        False
    )
    unset_workdir: Annotated[
        bool, Option(("--unset-workdir",), help="Start where the image says.")
    ] = False
    unset_env: Annotated[bool, Option(("--unset-env",), help="No environment variables.")] = False

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
                raise BadParameter(f"give {option} or {unset}, not both")
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
            raise BadParameter(f"--env takes KEY=VALUE, not {pair!r}")
        environment[key] = value
    return environment
