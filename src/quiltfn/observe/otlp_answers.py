"""How much of a collector's answer is read: exporters look at its status alone.

What answers may be no collector at all, or have gone mad. By itself `requests` reads all of a body,
however long it is and however slowly it comes.
"""

from time import monotonic
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

ANSWER_MAX_BYTES = 64 * 1024


class ShortAnswers(HTTPAdapter):
    """Reads a body so that the connection can be used again, within a bound and `timeout_s`; what
    is left then is dropped with the connection.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def send(self, *given: Any, **options: Any) -> requests.Response:
        """As `requests` calls it. Raises its exceptions, also where the answer leads elsewhere: a
        body that was sent there would be lost, and exporters count that as a success.
        """
        until = monotonic() + self._timeout_s
        answer = super().send(*given, **options | {"stream": True})
        size, is_over = 0, False
        try:
            while not is_over and size < ANSWER_MAX_BYTES and monotonic() < until:
                part = answer.raw.read1(ANSWER_MAX_BYTES - size, decode_content=False)
                size, is_over = size + len(part), not part
        except (OSError, urllib3.exceptions.HTTPError):
            pass  # the status is there
        if not is_over:
            answer.raw.close()
        answer.close()
        # As if all had been read: nobody reads any more of it.
        answer._content, answer._content_consumed = b"", True
        if 300 <= answer.raw.status <= 399:
            raise requests.RequestException(f"the answer was {answer.raw.status}: look elsewhere")
        return answer


def session(timeout_s: float) -> requests.Session:
    """For one exporter."""
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, ShortAnswers(timeout_s))
    return made
