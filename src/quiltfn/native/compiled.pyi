"""The compiled module (module.c)."""

def request(data: bytes, /) -> tuple[bool, str, str, str | None, str | None, bytes | None] | None:
    """The parts of an ordinary request that invokes a function: whether it names the function by
    name, that name or id, and the host, the key, the request id, and the payload. None: `data` is
    not exactly one such request.
    """

def reply(data: bytes, nonce: int, /) -> tuple[str, bytes, bool] | None:
    """The end of an ordinary invocation, whose handler has exited with 0: a stream, the output that
    came to it with the end, and whether the instance is clean already. None: `data` is not exactly
    the frames of one.
    """

def clean(data: bytes, nonce: int, /) -> bool:
    """Whether `data` is exactly the frame that says that the instance is clean."""

def call(
    nonce: int, timeout_ms: int, flags: int, environment: dict[str, str], payload: bytes | None, /
) -> bytes | None:
    """The frame that runs the handler once; it says itself whether there is a payload. None: it is
    not ordinary, or not valid.
    """

def response(
    request_id: str,
    invocation_id: str,
    function_id: str,
    function_name: str,
    node_id: str,
    begin: bytes,
    stdout: bytes,
    stderr: bytes,
    version: int,
    started_at: int,
    ended_at: int,
    duration_ms: int,
    queued_us: int,
    ran_us: int,
    recorded_us: int,
    /,
) -> bytes | None:
    """The response to an invocation that has succeeded, warm, with all of its output. `begin`: the
    status line and shared headers. None: the output is not UTF-8, or a number is negative.
    """
