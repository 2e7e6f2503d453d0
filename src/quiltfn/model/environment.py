"""The variables that a handler finds, decided in one place."""

from quiltfn.model.invocation import PAYLOAD_IN_ENVIRONMENT_MAX_BYTES
from quiltfn.model.version import Version, VersionSpec

ALWAYS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


def of_version(spec: VersionSpec) -> dict[str, str]:
    """What every call of the version has."""
    return ALWAYS | spec.runtime_snapshot.environment | spec.environment


def of_call(
    *,
    invocation_id: str,
    function_name: str,
    version: Version,
    deadline_unix_ms: int,
    payload: bytes | None,
    traceparent: str | None,
) -> dict[str, str]:
    """What one call adds; the names are reserved, so that they never meet a version's own.

    The payload is among them only while it is small and has no NUL, which a variable cannot carry;
    standard input always has it.
    """
    variables = {
        "QUILT_INVOCATION_ID": invocation_id,
        "QUILT_FUNCTION_ID": version.function_id,
        "QUILT_FUNCTION_NAME": function_name,
        "QUILT_FUNCTION_VERSION": str(version.number),
        "QUILT_DEADLINE_MS": str(deadline_unix_ms),
    }
    if (
        payload is not None
        and len(payload) <= PAYLOAD_IN_ENVIRONMENT_MAX_BYTES
        and b"\0" not in payload
    ):
        variables["QUILT_PAYLOAD"] = payload.decode()
    if traceparent is not None:
        variables["TRACEPARENT"] = traceparent
    return variables
