"""Shows what differed when a comparison in outcomes.py fails."""

import pytest

pytest.register_assert_rewrite("tests.robustness.outcomes")
