"""Carries out a plan step by step, and decides what to do after a failed step.

Completed steps are not recorded anywhere: after an interruption, a new comparison finds the
remaining steps.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar

from msgspec import UNSET, Struct
from msgspec.structs import asdict

from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.project.plan import (
    DEFAULT,
    LABEL,
    LIVE,
    CurrentState,
    DesiredFunction,
    DesiredState,
    Noun,
    Step,
    Verb,
    changed_fields,
)
from quiltfn.cli.project.sources import runtimes_of
from quiltfn.cli.show import quoted
from quiltfn.sdk import (
    ApiError,
    Client,
    ConflictError,
    FunctionFailed,
    NotFoundError,
    RateLimitError,
)
from quiltfn.wire import AliasShare, NewRuntime, RollbackRule

# If the server advises a longer wait, the refusal isn't caused by a concurrent change.
MOMENT_S = 10

# When a canary is rolled back.
RULE = RollbackRule(error_rate=0.05)

Upload = Callable[[NewRuntime], dict[str, Any]]


class ChangedMeanwhile(Exception):
    """Somebody else has changed, or is changing, the compared state, so a new plan is needed."""


class Execution:
    """Executes the steps of one plan. `upload`: uploads a runtime's files and returns its fields.

    `done`: the completed steps. `failed`: why a function cannot reach its desired state; then its
    other steps, and all deletions, are skipped.
    """

    def __init__(
        self, client: Client, wanted: DesiredState, found: CurrentState, upload: Upload
    ) -> None:
        self._client, self._wanted, self._found, self._upload = client, wanted, found, upload
        self._runtimes = runtimes_of(wanted)
        self.done: list[Step] = []
        self.failed: dict[str, str] = {}

    def perform(
        self,
        steps: Iterable[Step],
        report: Callable[[Step], None],
        around: Callable[[Step], AbstractContextManager[None]],
    ) -> None:
        """Execute the steps. `report`: gets each completed step. `around`: the context in which a
        step is executed. Raises `ChangedMeanwhile`, and `ConnectionFailed`.
        """
        for step in steps:
            if step.function in self.failed:
                continue
            if self.failed and step.verb in (Verb.DELETE, Verb.PRUNE):
                continue
            try:
                with around(step):
                    self._actions[step.noun](self, step)
            except FunctionFailed as error:
                self._fail(step, quoted(str(error)))
            except BadParameter as error:
                self._fail(step, error.message)
            except ConflictError as error:
                raise ChangedMeanwhile(error.message) from None
            except ApiError as error:
                if isinstance(error, RateLimitError) and 0 < (error.retry_after or 0) <= MOMENT_S:
                    raise ChangedMeanwhile(error.message) from None
                self._check_runtime(step)
                hint = f" ({error.hint})" if error.hint else ""
                self._fail(step, f"{_named(step)}: {error.message}{hint}")
            else:
                self.done.append(step)
                report(step)

    def _fail(self, step: Step, why: str) -> None:
        if step.noun is not Noun.RUNTIME:
            self.failed[step.function or step.name] = why
            return
        for name, function in self._wanted.functions.items():
            if function.new.runtime == step.name:
                self.failed[name] = why

    def _check_runtime(self, step: Step) -> None:
        """Raise `ChangedMeanwhile` if the function's runtime no longer exists."""
        wanted = self._wanted.functions.get(step.function or "")
        if step.noun is Noun.FUNCTION and wanted is not None and wanted.runtime is not None:
            try:
                self._client.runtimes.get(wanted.runtime.name)
            except NotFoundError:
                raise ChangedMeanwhile(f"runtime {wanted.runtime.name} is gone") from None

    def _runtime(self, step: Step) -> None:
        if step.verb is Verb.PRUNE:
            with suppress(NotFoundError):
                self._client.runtimes.remove(step.name)
        else:
            self._client.runtimes.add(**self._upload(self._runtimes[step.name]))

    def _function(self, step: Step) -> None:
        functions = self._client.functions
        if step.verb is Verb.CREATE:
            wanted = self._of(step)
            label = None if wanted.adopted else f"{LABEL}{self._wanted.project}"
            functions.create(**fields_in(wanted.new) | {"cluster_id": label})
        elif step.verb is Verb.UPDATE:
            there, wanted = self._found.functions[step.name], self._of(step)
            changes = {
                name: getattr(wanted.new, name)
                for name in changed_fields(wanted.new, there.function)
            }
            keep = None if self._wanted.canary is None else "keep"
            functions.update_if_match(there.function.id, there.etag, default_alias=keep, **changes)
        elif step.verb is Verb.DEPLOY:
            functions.deploy(self._id(step))
        else:
            with suppress(NotFoundError):
                functions.delete(self._id(step))

    def _async_policy(self, step: Step) -> None:
        policy = fields_in(self._of(step).async_policy)
        self._client.functions.set_async_policy(self._id(step), **policy)

    def _record_policy(self, step: Step) -> None:
        policy = fields_in(self._of(step).record_policy)
        self._client.functions.set_record_policy(self._id(step), **policy)

    def _url(self, step: Step) -> None:
        wanted = self._wanted.functions.get(step.name)
        if wanted is None or wanted.url is None:
            with suppress(NotFoundError):
                self._client.functions.delete_url(self._id(step))
        else:
            self._client.functions.set_url(self._id(step), **fields_in(wanted.url))

    def _alias(self, step: Step) -> None:
        functions, weight = self._client.functions, self._wanted.canary
        assert weight is not None, "aliases are left alone otherwise"
        now = functions.get(self._id(step))
        changed = ChangedMeanwhile(f"the alias {LIVE} of {now.name} was changed")
        if step.verb is Verb.CREATE:
            with suppress(NotFoundError):
                functions.get_alias(now.id, LIVE)
                raise changed
            functions.set_alias(now.id, LIVE, now.current_version, default=True)
            return
        live, etag = functions.get_alias_with_etag(now.id, LIVE)
        if step.changes[0].field == DEFAULT:
            functions.set_alias(now.id, LIVE, now.current_version, default=True, etag=etag)
            return
        if live.version == now.current_version:
            raise changed
        also = AliasShare(version=now.current_version, weight=weight)
        functions.set_alias(
            now.id, LIVE, live.version, also=also, rollback_on=RULE, default=True, etag=etag
        )

    def _schedule(self, step: Step) -> None:
        schedules = self._client.schedules
        if step.verb is Verb.DELETE:
            with suppress(NotFoundError):
                schedules.delete(step.name)
            return
        fields = fields_in(self._of(step).schedules[step.name])
        if step.verb is Verb.CREATE:
            schedules.create(**fields)
            return
        changed = {one.field.partition(".")[0] for one in step.changes}
        changes = {name: one for name, one in fields.items() if name in changed}
        try:
            schedules.update(step.name, **changes)
        except NotFoundError as error:
            raise ChangedMeanwhile(error.message) from None

    def _of(self, step: Step) -> DesiredFunction:
        return self._wanted.functions[step.function or step.name]

    def _id(self, step: Step) -> str:
        """The id of the compared function; a new one is identified by its name."""
        name = step.function or step.name
        there = self._found.functions.get(name)
        return name if there is None else there.function.id

    _actions: ClassVar[dict[Noun, Callable[["Execution", Step], None]]] = {
        Noun.RUNTIME: _runtime,
        Noun.FUNCTION: _function,
        Noun.ASYNC_POLICY: _async_policy,
        Noun.RECORD_POLICY: _record_policy,
        Noun.URL: _url,
        Noun.SCHEDULE: _schedule,
        Noun.ALIAS: _alias,
    }


def fields_in(body: Struct) -> dict[str, Any]:
    """The fields of a request body that are to be sent, by name."""
    return {name: value for name, value in asdict(body).items() if value is not UNSET}


def _named(step: Step) -> str:
    return step.noun.value if step.name == step.function else f"{step.noun.value} {step.name}"
