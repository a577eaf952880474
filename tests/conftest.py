"""For all tests: hypothesis judges what our code does, not how fast a shared machine generates examples.

`HYPOTHESIS_PROFILE=deep` (`make test-deep`) plays far more examples than a change's check has time for,
`EXAMPLES` of each.
"""

import os
import signal

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("keeper", deadline=None, suppress_health_check=QUIET)
MANY = int(os.environ.get("EXAMPLES") or 5_000)
settings.register_profile("deep", deadline=None, suppress_health_check=QUIET, max_examples=MANY)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "keeper"))

# Now and then hypothesis draws a constant of the modules that are loaded, which are others in each worker of each run:
# a seed would be another history every time. There is no setting for it.
NO_CONSTANTS = providers._local_constants
providers._get_local_constants = lambda: NO_CONSTANTS

# A shell that starts us in the background has us ignore Ctrl-C, and with us the commands that are to end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
