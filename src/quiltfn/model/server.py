"""ServerSettings: how invocations reach the HTTP server of a version.

The settings are environment variables, so that servers written for other platforms run unchanged:
every platform sets PORT, AWS Lambda sets AWS_LAMBDA_HTTP_ENDPOINT for a web server, and AWS_LWA_*
are the variables of its Web Adapter.
"""

import re
from collections.abc import Mapping

import msgspec

from quiltfn.model.errors import Unprocessable

PORT, PORT_OF_ADAPTER = "PORT", "AWS_LWA_PORT"
ENDPOINT = "AWS_LAMBDA_HTTP_ENDPOINT"
READINESS_PATH = "AWS_LWA_READINESS_CHECK_PATH"
EVENT_PATH = "AWS_LWA_PASS_THROUGH_PATH"
CONCURRENCY = "AWS_LAMBDA_MAX_CONCURRENCY"
DEFAULT_PORT, DEFAULT_EVENT_PATH = 8080, "/events"
# Servers have no permission to listen on lower ports.
PORT_MIN, PORT_MAX = 1024, 65535
CONCURRENCY_MAX = 1000
PATH = re.compile(r"/[\x21-\x7e]{0,1023}")


class ServerSettings(msgspec.Struct, frozen=True):
    """Settings of a version's HTTP server.

    `port`: on 127.0.0.1 in the sandbox. `readiness_path`: a path that responds to GET with a status
    below 500 once the server is ready; None: it is ready when its port accepts a connection.
    `event_path`: the path that receives, as POST requests, invocations that are not HTTP requests.
    `concurrency`: the maximum of simultaneous invocations.
    """

    port: int = DEFAULT_PORT
    readiness_path: str | None = None
    event_path: str = DEFAULT_EVENT_PATH
    concurrency: int = 1

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "ServerSettings":
        """The settings in these variables. Raises `Unprocessable`."""
        if ENDPOINT in variables:
            expected = f"absent: it is made from {PORT}"
            raise Unprocessable.field(f"environment.{ENDPOINT}", expected, variables[ENDPOINT])
        name = PORT_OF_ADAPTER if PORT_OF_ADAPTER in variables else PORT
        return cls(
            port=_number(variables, name, DEFAULT_PORT, PORT_MIN, PORT_MAX),
            readiness_path=_path(variables, READINESS_PATH, None),
            event_path=_path(variables, EVENT_PATH, DEFAULT_EVENT_PATH) or DEFAULT_EVENT_PATH,
            concurrency=_number(variables, CONCURRENCY, 1, 1, CONCURRENCY_MAX),
        )

    @property
    def variables(self) -> dict[str, str]:
        """The variables that tell the server where to listen; each one suffices."""
        return {PORT: str(self.port), ENDPOINT: f"0.0.0.0:{self.port}"}


def _number(variables: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = variables.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,5}", text) or not least <= int(text) <= most:
        expected = f"a number from {least} to {most}"
        raise Unprocessable.field(f"environment.{name}", expected, text, str(default))
    return int(text)


def _path(variables: Mapping[str, str], name: str, default: str | None) -> str | None:
    text = variables.get(name)
    if text is None:
        return default
    if not PATH.fullmatch(text):
        expected = "a path that begins with / and has at most 1024 visible characters of ASCII"
        raise Unprocessable.field(f"environment.{name}", expected, text, "/healthz")
    return text
