"""What all tests share: how hard hypothesis tries, and what is left out where it tells nothing new or cannot run."""

import importlib.util
import os

import pytest
from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # the first example compiles kernels
TORCH = ("torch", "transformers")  # what a test marked `heavy` needs, unless the mark names something else
INTERPRETED, CHECKED = (os.environ.get(name, "0") != "0" for name in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"))

pytest.register_assert_rewrite("tests.oracle", "tests.support")  # what they assert is shown as in a test

settings.register_profile("compiled", deadline=None, derandomize=True, max_examples=100, suppress_health_check=SLOW)
settings.register_profile("interpreted", settings.get_profile("compiled"), max_examples=20)
settings.load_profile("interpreted" if INTERPRETED else "compiled")


def pytest_collection_modifyitems(items):
    """Leave out tests that would only do the same again: their processes inherit no setting of Numba, or they run
    whole commands, which takes minutes where kernels are interpreted. Those marked `heavy` need what is not here."""
    for item in items:
        heavy = item.get_closest_marker("heavy")
        needs = (heavy.args or TORCH) if heavy else ()
        if not all(map(importlib.util.find_spec, needs)):
            target = "test-llamacpp" if "llama_cpp" in needs else "test-all"
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(needs)}: make {target}"))
    if INTERPRETED or CHECKED:
        for item in items:
            if item.get_closest_marker("once") or item.get_closest_marker("heavy"):
                item.add_marker(pytest.mark.skip(reason="marked 'once' or 'heavy': the compiled run has it"))
