"""`quiltfn deploy` and `quiltfn destroy`: deploy a project to a server, or remove it."""

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct
from msgspec.structs import replace

from quiltfn.cli import progress, show, tree, urls, watching
from quiltfn.cli.aliases import fraction_of
from quiltfn.cli.output import Output
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Option
from quiltfn.cli.project import PROJECT_FILE, drawing, file, state
from quiltfn.cli.project.plan import CurrentState, DesiredState, Noun, Plan, Step, Verb, plan_for
from quiltfn.cli.project.sources import Sources
from quiltfn.cli.project.steps import ChangedMeanwhile, Execution, Upload
from quiltfn.cli.session import Connection, Session
from quiltfn.sdk import ApiError, ConnectionFailed
from quiltfn.wire.check import NO_LIMITS

DONE, REFUSED, PARTLY = 0, 1, 3
# Maximum number of comparisons with the server while others change the project.
ROUNDS = 6
FIRST_WAIT_S = 0.2

Directory = Annotated[
    Path, Argument(metavar="DIR", help="Directory with quiltfn.toml (default: current).")
]
Yes = Annotated[bool, Option(("--yes", "-y"), help="Skip delete confirmation.")]
Environment = Annotated[
    str | None,
    Option(
        ("--env",),
        metavar="NAME",
        help="Environment of the file, whose functions are named NAME-FUNCTION.",
    ),
]


class DeployOptions(Struct, frozen=True, kw_only=True):
    """How a project is deployed."""

    dry_run: Annotated[
        bool, Option(("--dry-run",), help="Preview changes without applying them.")
    ] = False
    watch: Annotated[bool, Option(("--watch",), help="Redeploy after every edit.")] = False
    canary: Annotated[
        str | None,
        Option(
            metavar="PERCENT",
            help="Share of the invocations for new versions, such as 10%.",
        ),
    ] = None
    allow_outside: Annotated[
        bool,
        Option(
            ("--allow-outside",),
            help="Allow code, requirements, and images outside the project's directory.",
        ),
    ] = False
    environment: Environment = None
    env_file: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Env file with secrets (default: .env, and .env.NAME of an environment).",
            is_file=True,
        ),
    ] = None


def deploy(
    directory: Directory = Path(),
    yes: Yes = False,
    *,
    options: DeployOptions,
    connection: Connection,
) -> None:
    """Deploy the project in quiltfn.toml: functions, code, URLs, schedules, policies.

    What hasn't changed stays as it is. If a function's new version can't start, the old one stays
    current, and nothing is deleted. With --canary, new versions get only that share of the
    invocations; a new version is rolled back if more than 5% of its invocations fail.
    Exit codes: 0 the server matches the file; 1 refused or rolled back, the current versions are
    unchanged; 2 the command line or the file is invalid; 3 partly deployed.
    """
    if options.canary is not None and options.watch:
        raise BadParameter("give --canary or --watch, not both")
    with connection.session() as at:
        project = Project(at, directory, options, yes)
        if not options.watch:
            raise Exit(_answered(project.deploy))
        watching.take_signals()
        with suppress(KeyboardInterrupt), watching.alone(directory, "quiltfn deploy --watch"):
            watching.watch(directory, lambda: watching.with_report(project.turn))


def destroy(
    directory: Directory = Path(),
    yes: Yes = False,
    *,
    dry_run: Annotated[
        bool, Option(("--dry-run",), help="Preview deletions without applying them.")
    ] = False,
    environment: Environment = None,
    connection: Connection,
) -> None:
    """Delete all functions of the project, with their URLs and schedules, and its runtimes.

    Adopted functions stay, and so do environments, unless --env names one. Exit codes are those of
    `deploy`.
    """
    name = file.project_of(directory / PROJECT_FILE, environment)
    with connection.session() as at:
        project = Project(at, directory, DeployOptions(dry_run=dry_run), yes)
        raise Exit(_answered(lambda: project.make_so(DesiredState(project=name))))


def _answered(run: Callable[[], int]) -> int:
    """The exit code, also if the server does not respond: here 3 means partly deployed."""
    try:
        return run()
    except ConnectionFailed as error:
        show.complain(str(error))
        return REFUSED


class Project:
    """The project of a directory, on one server."""

    def __init__(self, at: Session, directory: Path, options: DeployOptions, yes: bool) -> None:
        self._at, self._path, self._options = at, directory / PROJECT_FILE, options
        self._says_yes = yes
        self._steps: list[Step] = []  # what was done
        self._failed: dict[str, str] = {}
        given = options.canary
        self._canary = None if given is None else fraction_of(given, "--canary")

    def turn(self) -> None:
        """Like `deploy`, but don't exit after failures, which the next edit may fix."""
        with suppress(Exit):
            self.deploy()

    def deploy(self) -> int:
        """Read the file and deploy it; return the exit code."""
        variables = self._variables()
        outside, environment = self._options.allow_outside, self._options.environment

        def read(limits: Mapping[str, float]) -> file.ProjectFile:
            return file.read(
                self._path, variables, limits, allows_outside=outside, environment=environment
            )

        read(NO_LIMITS)  # errors in the file are reported before any request to a server
        found = read(self._at.info.limits)
        with tempfile.TemporaryDirectory(prefix="quiltfn-") as place:
            env_file = self._options.env_file
            left_out = () if env_file is None else (env_file.name,)
            sources = Sources(self._at, found, Path(place), left_out, allows_outside=outside)
            wanted = replace(sources.wanted(), canary=self._canary)
            return self.make_so(wanted, sources.upload)

    def make_so(self, wanted: DesiredState, upload: Upload = lambda _: {}) -> int:
        """Deploy the desired state; return the exit code. Raises as the client does if nothing was
        done before.
        """
        self._steps, self._failed = [], {}
        state.check_scope(self._at)
        found = self._found(wanted)
        plan = plan_for(wanted, found)
        if plan.refused:
            return self._refuse(wanted, plan)
        self._tell(lambda: drawing.plan(wanted, plan, self._at.address))
        if self._options.dry_run:
            self._tell(lambda: drawing.rolled_back(plan))
            return self._ended(wanted, found, plan, DONE)
        if not plan.steps:
            return self._ended(wanted, found, plan, self._code(plan))
        if plan.deletions and not self._says_yes:
            self._ask(plan)
        try:
            found, left = self._rounds(wanted, found, plan, upload)
        except (ConnectionFailed, ApiError) as error:
            if not any(map(_is_noticed, self._steps)):
                raise
            show.complain(
                str(error), "run the command again: completed steps stay, the rest follows"
            )
            return self._ended(wanted, found, plan, PARTLY)
        for note in left.notes:
            if note not in plan.notes:  # the default alias may use another version after an update
                show.note(note)
        return self._ended(wanted, found, plan, self._code(left))

    def _rounds(
        self, wanted: DesiredState, found: CurrentState, plan: Plan, upload: Upload
    ) -> tuple[CurrentState, Plan]:
        """Compare and apply changes until nothing is left to do. Returns the resulting state, and
        what could not be done.
        """
        agreed = plan.deletions
        for turn in range(ROUNDS):
            execution = Execution(self._at.client, wanted, found, upload)
            why = "the server does not match the file yet"
            try:
                execution.perform(
                    plan.steps,
                    lambda step: self._tell(lambda: drawing.done(step)),
                    lambda step: progress.step(drawing.doing(step)),
                )
            except ChangedMeanwhile as error:
                why = str(error)
            finally:
                self._steps += execution.done
                self._failed |= execution.failed
            found = self._found(wanted)
            plan = plan_for(wanted, found)
            if self._failed or plan.refused or not plan.steps or plan.deletions - agreed:
                break
            show.note(f"{why}; comparing again")
            time.sleep(random.uniform(0, FIRST_WAIT_S * 2**turn))
        return found, plan

    def _found(self, wanted: DesiredState) -> CurrentState:
        with_aliases = wanted.canary is not None
        return state.find(self._at, wanted.project, wanted.functions, with_aliases=with_aliases)

    def _code(self, left: Plan) -> int:
        self._failed |= left.rolled_back
        for name, why in self._failed.items():
            show.complain(f"{name}: {why}", own_lines=True)
        is_noticed = any(map(_is_noticed, self._steps))
        if self._failed:
            return PARTLY if is_noticed else REFUSED
        if left.steps or left.refused:
            show.complain(
                "the server does not match the file, because somebody else changes the project as "
                "well",
                "deploy again",
            )
            return PARTLY
        return DONE

    def _variables(self) -> Mapping[str, str]:
        """The variables with secrets. The process's take precedence over those of env files, and
        those of an environment's file over the project's.
        """
        environment = self._options.environment
        found: dict[str, str] = {}
        names = [file.ENV_FILE]
        names += [] if environment is None else [f"{file.ENV_FILE}.{environment}"]
        given = self._options.env_file
        for path in [given] if given else map(self._path.with_name, names):
            is_allowed = given is not None or self._options.allow_outside
            if not is_allowed and tree.is_outside(self._path.parent, path.name):
                raise BadParameter(
                    f"{path} leads out of the project's directory; to use it: --env-file"
                )
            found |= file.variables_in(path) if path.is_file() else {}
        return found | dict(os.environ)

    def _refuse(self, wanted: DesiredState, plan: Plan) -> int:
        for sentence in plan.refused:
            show.complain(sentence)
        self._print_whole(wanted, plan, "refused", {})
        return REFUSED

    def _ask(self, plan: Plan) -> None:
        """Ask for confirmation. Raises `Exit` unless the answer is yes."""
        names = ", ".join(sorted(f"{noun} {name}" for noun, name in plan.deletions))
        if self._at.output is not Output.TABLE or sys.stdin is None or not sys.stdin.isatty():
            show.complain(f"this would delete {names}", "nothing was done; --yes allows it")
            raise Exit(REFUSED)
        show.ask(f"Delete {names}?")

    def _ended(self, wanted: DesiredState, found: CurrentState, plan: Plan, code: int) -> int:
        addresses = {
            name: urls.address_of(one.url, self._at.address)
            for name, one in found.functions.items()
            if one.url is not None and name in wanted.functions
        }
        words = {DONE: "done", REFUSED: "refused", PARTLY: "partly"}
        word = "planned" if self._options.dry_run else words[code]
        self._print_whole(wanted, plan, word, addresses)
        if not self._options.dry_run and code != REFUSED:
            served = {name: one for name, one in addresses.items() if name not in self._failed}
            self._tell(lambda: drawing.next_step(wanted, served, code == DONE))
            self._tell(lambda: drawing.canaries(found))
        return code

    def _print_whole(
        self, wanted: DesiredState, plan: Plan, word: str, addresses: Mapping[str, str]
    ) -> None:
        if self._at.output is not Output.TABLE:
            report: dict[str, Any] = {"project": wanted.project, "outcome": word}
            report |= {"server": self._at.address, "steps": plan.steps}
            report |= {"done": self._steps, "failed": self._failed, "urls": addresses}
            report |= {
                "refused": plan.refused,
                "notes": plan.notes,
                "rolled_back": plan.rolled_back,
            }
            self._at.print(None, show.encoded(report), lambda _: None)

    def _tell(self, print_it: Callable[[], None]) -> None:
        if self._at.output is Output.TABLE:
            print_it()


def _is_noticed(step: Step) -> bool:
    """Whether callers can notice the step. Adding a runtime, or an alias of the current version,
    does not affect invocations.
    """
    is_name = step.noun is Noun.ALIAS and step.verb is Verb.CREATE
    return step.noun is not Noun.RUNTIME and not is_name
