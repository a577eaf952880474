"""For all tests: hypothesis judges what our code does, not how fast a shared machine generates examples."""

from hypothesis import HealthCheck, settings

settings.register_profile("keeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("keeper")
