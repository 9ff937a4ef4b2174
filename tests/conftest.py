"""For the whole suite: no test may depend on how fast the machine is, and a failing property prints how to repeat it."""

from hypothesis import HealthCheck, settings

settings.register_profile("postsale", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("postsale")
