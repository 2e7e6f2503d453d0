"""Schemas of asynchronous invocations: policies, attempts, inputs, dead letters and queues."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType, field

from quiltfn.wire.constraints import Between, Bytes, Documented, OneOf, Rule
from quiltfn.wire.fields import about
from quiltfn.wire.functions import (
    Environment,
    FunctionId,
    FunctionName,
    NextCursor,
    NodeId,
)
from quiltfn.wire.invocations import (
    AttemptNumber,
    CauseOfEnd,
    ColdStart,
    ExitCode,
    InvocationError,
    InvocationId,
    InvocationStatus,
    Milliseconds,
    Payload,
    Source,
)
from quiltfn.wire.numbers import UnixSeconds, VersionNumber

__all__ = [
    "AsyncPolicy",
    "Attempt",
    "AttemptList",
    "Backoff",
    "DeadLetter",
    "DeadLetterPage",
    "Destination",
    "FunctionQueue",
    "InvocationInput",
    "NewAsyncPolicy",
    "NewDestination",
    "QueuePage",
    "RecordPolicy",
    "Redrive",
    "RedriveResult",
    "Replay",
]

RETRYABLE = ("failed", "timeout", "oom", "error", "interrupted")
KEEP_INPUT = ("async", "all", "none")
MODES = ("sync", "async")
DAY_S = 86_400
ATTEMPTS_MAX = 10
AGE_MAX_S = 14 * DAY_S
QUEUED_MAX = 1_000_000
IDS_MAX = 1000
URL_MAX_BYTES = 2048
SECRET_PREFIX = "whsec_"
SECRET = f"^{SECRET_PREFIX}[A-Za-z0-9+/]{{32,86}}={{0,2}}$"


def _wrong_statuses(statuses: list[str]) -> str | None:
    if any(one not in RETRYABLE for one in statuses) or len(set(statuses)) < len(statuses):
        return f"a list of different statuses among: {', '.join(RETRYABLE)}"
    return None


def _wrong_ids(ids: list[str]) -> str | None:
    if not 1 <= len(ids) <= IDS_MAX or any(not 1 <= len(one) <= 64 for one in ids):
        return f"a list of 1 to {IDS_MAX} invocation ids"
    return None


BackoffFirst = Annotated[
    float,
    about(
        f"seconds before the second attempt, from 0 to {DAY_S}", 1.0, Between(0, DAY_S), unit="s"
    ),
]
BackoffFactor = Annotated[
    float, about("factor by which each wait grows, from 1 to 100", 2.0, Between(1, 100))
]
BackoffMost = Annotated[
    float, about(f"maximum wait in seconds, from 0 to {DAY_S}", 600.0, Between(0, DAY_S))
]
BackoffJitter = Annotated[
    float,
    about("random variation of each wait: a fraction from 0 to 1", 0.2, Between(0, 1)),
]
DestinationFunction = Annotated[
    str, about("the name of a function of the tenant", "record-failure", Bytes(1, 64))
]
DestinationUrl = Annotated[
    str,
    about(
        f"an http or https address of at most {URL_MAX_BYTES} characters",
        "https://example.com/hooks/thumbnails",
        Bytes(1, URL_MAX_BYTES),
        # Hosts and addresses are checked by code that has the settings.
        Documented({"pattern": r"^https?://(?!.*\*{3})[!-~]+$"}),
    ),
]
DestinationSecret = Annotated[
    str,
    about(
        "signing secret of requests to the url: whsec_ and 24 to 64 random bytes in base64; "
        "shown as *** below scope write",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        Documented({"pattern": SECRET}),
    ),
]
MaxAttempts = Annotated[
    int,
    about(
        f"maximum attempts of an asynchronous invocation, from 1 to {ATTEMPTS_MAX}; 1: no retries",
        3,
        Between(1, ATTEMPTS_MAX),
    ),
]
RetryOn = Annotated[
    list[str],
    about(
        f"statuses to retry on: some of {', '.join(RETRYABLE)}",
        ["failed", "timeout"],
        Rule(
            _wrong_statuses,
            {"items": {"type": "string", "enum": list(RETRYABLE)}, "uniqueItems": True},
        ),
    ),
]
MaxAgeSeconds = Annotated[
    int,
    about(
        "maximum age in seconds at the start of an attempt, counted from the first due time, "
        f"from 1 to {AGE_MAX_S}",
        21_600,
        Between(1, AGE_MAX_S),
        unit="s",
    ),
]
MaxQueued = Annotated[
    int,
    about(
        f"maximum queued invocations of the function, from 1 to {QUEUED_MAX}",
        100_000,
        Between(1, QUEUED_MAX),
    ),
]
MaxConcurrency = Annotated[
    int,
    about(
        "maximum concurrent asynchronous invocations, from 1 to 1000",
        4,
        Between(1, 1000),
        null="limited only by free instances",
    ),
]
KeepInput = Annotated[
    str,
    about(
        "which inputs are stored: async (of asynchronous invocations), all, or none (only until "
        "the invocation ends)",
        "all",
        OneOf(KEEP_INPUT),
    ),
]
CallerName = Annotated[str, about("the credential of the caller, by name", "key nightly")]
Count = Annotated[int, about("number", 3)]
AgeSeconds = Annotated[
    int, about("seconds since the oldest one became due; null if there is none", 12)
]
Mode = Annotated[str, about("sync: wait for the end; async: queue it", "async", OneOf(MODES))]
DeadReason = Annotated[
    str,
    about(
        "attempts: no attempts are left, or the input can't be decrypted; age: maximum age "
        "exceeded before a start",
        "attempts",
    ),
]
InvocationIds = Annotated[
    list[str],
    about(
        f"1 to {IDS_MAX} ids of dead letters",
        ["01999999-0000-7000-8000-000000000001"],
        Rule(
            _wrong_ids,
            {
                "minItems": 1,
                "maxItems": IDS_MAX,
                "items": {"type": "string", "minLength": 1, "maxLength": 64},
            },
        ),
    ),
]
NewIds = Annotated[
    list[str], about("ids of the new invocations", ["01999999-0000-7000-8000-000000000002"])
]
All = Annotated[
    bool, about("true: redrive all, for up to 20 seconds; remaining is the number left", True)
]


# --- requests -----------------------------------------------------------------------


class Backoff(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The wait before the next attempt: `first` seconds, then `factor` times the previous wait, up
    to `most`. Each wait is varied at random by up to the fraction `jitter`.
    """

    first: BackoffFirst = 1.0
    factor: BackoffFactor = 2.0
    most: BackoffMost = 600.0
    jitter: BackoffJitter = 0.2


class NewDestination(
    Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """A destination for outcomes of asynchronous invocations: either a function, or a url with its
    secret.
    """

    function: DestinationFunction | None = None
    url: DestinationUrl | None = None
    secret: DestinationSecret | None = None


BackoffSeconds = Annotated[
    Backoff,
    about(
        "the wait before the next attempt",
        {"first": 1, "factor": 2, "most": 600, "jitter": 0.2},
    ),
]
OnSuccess = Annotated[
    NewDestination,
    about("destination for successful invocations", {"function": "publish"}),
]
OnFailure = Annotated[
    NewDestination,
    about("destination for dead-lettered invocations", {"function": "record-failure"}),
]


class NewAsyncPolicy(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a function's asynchronous invocations run. Omitted fields take their defaults."""

    max_attempts: MaxAttempts = 1
    backoff_seconds: BackoffSeconds = Backoff()
    retry_on: RetryOn = field(default_factory=lambda: list(RETRYABLE))
    max_age_seconds: MaxAgeSeconds = 21_600
    max_queued: MaxQueued = 100_000
    max_concurrency: MaxConcurrency | None = None
    on_success: OnSuccess | None = None
    on_failure: OnFailure | None = None


class RecordPolicy(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which inputs of a function's invocations are stored."""

    keep_input: KeepInput = "async"


class Replay(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a stored input is replayed. `version`: null for the current version, or for that of the
    default alias if there is one. `payload`: replaces the stored payload, which is used if this is
    omitted.
    """

    version: VersionNumber | None = None
    mode: Mode = "sync"
    payload: Payload | UnsetType | None = UNSET


class Redrive(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """Dead letters to redrive: those named, or all."""

    invocation_ids: InvocationIds | None = None
    all: All = False


# --- responses ---------------------------------------------------------------------


class Destination(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A destination for outcomes of asynchronous invocations. Below scope write, the secret and the
    part of the url after the host are shown as ***.
    """

    function: DestinationFunction | None = None
    url: DestinationUrl | None = None
    secret: DestinationSecret | None = None


class AsyncPolicy(Struct, kw_only=True, frozen=True):
    """How a function's asynchronous invocations run."""

    max_attempts: MaxAttempts
    backoff_seconds: Backoff
    retry_on: RetryOn
    max_age_seconds: MaxAgeSeconds
    max_queued: MaxQueued
    max_concurrency: MaxConcurrency | None
    on_success: Destination | None
    on_failure: Destination | None


AttemptOutput = Annotated[str, about("end of the attempt's output, or null", "hello\n")]


class Attempt(Struct, kw_only=True, frozen=True):
    """One attempt of an invocation. Times in Unix seconds; `started_at` is null if it was not
    handed to an instance; `duration_ms` in milliseconds. `version`: null if unknown. `stdout`,
    `stderr`: the last 16 KiB of each stream; null if they aren't stored.
    """

    attempt: AttemptNumber
    status: InvocationStatus
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    duration_ms: Milliseconds | None
    exit_code: ExitCode | None
    error_message: InvocationError | None
    execution_node_id: NodeId
    cold_start: ColdStart
    version: VersionNumber | None
    stdout: AttemptOutput | None = None
    stderr: AttemptOutput | None = None
    end_cause: CauseOfEnd | None = None


class AttemptList(Struct, kw_only=True, frozen=True):
    """An invocation's attempts that are over, first to last."""

    attempts: list[Attempt]


class InvocationInput(Struct, kw_only=True, frozen=True):
    """An invocation's input and caller. `version`: null if it was chosen only when the invocation
    ran.
    """

    payload: Payload | None
    environment: Environment | None
    version: VersionNumber | None
    source: Source
    caller: CallerName
    parent_invocation_id: InvocationId | None


class DeadLetter(Struct, kw_only=True, frozen=True):
    """A dead-lettered invocation; its record has more."""

    invocation_id: InvocationId
    function_id: FunctionId | None = None
    function_name: FunctionName | None = None
    reason: DeadReason
    died_at: UnixSeconds
    status: InvocationStatus
    attempts: Count
    error_message: InvocationError | None
    source: Source
    end_cause: CauseOfEnd | None = None


class DeadLetterPage(Struct, kw_only=True, frozen=True):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetter]
    next_cursor: NextCursor | None


class RedriveResult(Struct, kw_only=True, frozen=True):
    """Number of redriven dead letters, the ids of the new invocations, and the number left."""

    redriven: Count
    invocation_ids: NewIds
    remaining: Count


class FunctionQueue(Struct, kw_only=True, frozen=True):
    """A function's asynchronous invocations that aren't over. `queued`: due, and waiting;
    `delayed`: due later.
    """

    function_id: FunctionId | None = None
    function_name: FunctionName | None = None
    queued: Count
    delayed: Count
    running: Count
    oldest_age_seconds: AgeSeconds | None
    dead_letters: Count


class QueuePage(Struct, kw_only=True, frozen=True):
    """Asynchronous invocations that aren't over, and dead letters, by function."""

    queues: list[FunctionQueue]
    next_cursor: NextCursor | None
