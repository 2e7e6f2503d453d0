"""For every test: a machine that is busy with other work is no reason to fail."""

from hypothesis import HealthCheck, settings

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", ANY_MACHINE)
settings.load_profile("any machine")
