"""For every test: a machine that is busy with other work is no reason to fail."""

import pytest
from hypothesis import HealthCheck, settings

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", ANY_MACHINE)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stream-mib",
        type=int,
        default=64,
        help="How long the stream is that a slow reader gets in test_connection.py, in MiB.",
    )
