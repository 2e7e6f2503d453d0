"""The room that programs have in a sandbox, and programs that need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.server import Server

pytestmark = pytest.mark.sandbox
SHOW = """
df -k /tmp | awk '/^tmpfs/ { print $2 / 1024 }'
df -i /tmp | awk '/^tmpfs/ { print $2 }'
echo $(($(ulimit -f) / 2048)); ulimit -n
(for n in $(seq {many}); do sleep 20 & done) 2>/dev/null; set -- /proc/[0-9]*; echo $#
"""


def room(server: Server, runtime: str, many: int) -> list[int]:
    """MiB and inodes of /tmp, MiB of a file, open files, and how many processes there can be of so
    many.
    """
    record = server.run(SHOW.replace("{many}", str(many)), runtime=runtime, timeout_seconds=20)
    return [int(word) for word in record["stdout"].split()]


def test_a_runtime_gives_its_sandboxes_other_room(shared: Server) -> None:
    limits: dict[str, Any] = {
        "process_limit": 40,
        "tmp_limit_mb": 32,
        "file_limit_mb": 16,
        "open_files_limit": 256,
    }
    runtime = sample_runtimes.add(shared, "shell", {"x": "x"}, **limits)
    *rest, processes = room(shared, runtime, many=60)
    assert rest == [32, 32 * 256, 16, 256]
    assert 25 < processes < 40
    *rest, processes = room(shared, "shell", many=60)
    assert rest == [512, 512 * 256, 512, 4096]
    assert processes > 60


def test_no_sandbox_has_more_than_the_operator_allows(another: Callable[..., Server]) -> None:
    most = (
        "--sandbox-processes-max 50 --sandbox-tmp-max-mib 10 --sandbox-file-max-mib 5 "
        "--sandbox-open-files-max 100"
    )
    server = another(most).start()
    *rest, processes = room(server, "shell", many=60)
    assert rest == [10, 10 * 256, 5, 100]
    assert processes < 50
    body = {"name": "large", "kind": "shell", "tmp_limit_mb": 11}
    assert server.call("POST", "/api/runtimes", body).status_code == 422
