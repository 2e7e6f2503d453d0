"""The environment variables of a handler."""

from quiltfn.model.invocation import PAYLOAD_IN_ENVIRONMENT_MAX_BYTES
from quiltfn.model.runtime import Kind
from quiltfn.model.version import Version, VersionSpec

# The directory of Python packages in an image; the Python runner has the same path.
PACKAGES = "/app/site-packages"
ALWAYS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


def of_version(spec: VersionSpec) -> dict[str, str]:
    """The variables that every invocation of the version has."""
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
    """The variables of one invocation. Their names are reserved, so a version cannot set them.

    The payload is one of these variables only if it is a small text without NUL. In any case, a
    shell handler gets the payload on its standard input, a runner over its socket, and a web server
    as a request.
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
