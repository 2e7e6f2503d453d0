"""The environment variables of a handler."""

from quiltfn.model.invocation import PAYLOAD_IN_ENVIRONMENT_MAX_BYTES
from quiltfn.model.runtime import Kind
from quiltfn.model.version import Version, VersionSpec

# Where an image has Python's packages; the runner of kind python knows it.
PACKAGES = "/app/site-packages"
ALWAYS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


def of_version(spec: VersionSpec) -> dict[str, str]:
    """The variables that every call of the version has."""
    own = spec.runtime_snapshot.environment | spec.environment
    if spec.runtime_snapshot.kind is Kind.SERVER:
        own = {"PYTHONPATH": PACKAGES} | own | spec.server_settings().variables
    return ALWAYS | own


def of_call(
    *,
    invocation_id: str,
    function_name: str,
    version: Version,
    deadline_unix_ms: int,
    payload: bytes | None,
    traceparent: str | None,
) -> dict[str, str]:
    """The variables of one call. Their names are reserved, so a version cannot have them.

    The payload is one of them if it is small and text without NUL, as a variable has to be; of any
    kind and size, a shell handler has it on standard input, and a runner gets it over its socket. A
    server gets a request.
    """
    variables = {
        "QUILT_INVOCATION_ID": invocation_id,
        "QUILT_FUNCTION_ID": version.function_id,
        "QUILT_FUNCTION_NAME": function_name,
        "QUILT_FUNCTION_VERSION": str(version.number),
        "QUILT_DEADLINE_MS": str(deadline_unix_ms),
        "QUILT_MEMORY_LIMIT_MB": str(version.spec.memory_limit_mb),
    }
    if (
        payload is not None
        and version.spec.runtime_snapshot.kind is not Kind.SERVER
        and len(payload) <= PAYLOAD_IN_ENVIRONMENT_MAX_BYTES
        and b"\0" not in payload
    ):
        text = _text_of(payload)
        if text is not None:
            variables["QUILT_PAYLOAD"] = text
    if traceparent is not None:
        variables["TRACEPARENT"] = traceparent
    return variables


def _text_of(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
