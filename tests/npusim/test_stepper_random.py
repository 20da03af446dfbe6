"""Engine and stepper agree on random machines and programs, cycle for cycle."""

from __future__ import annotations

import pytest
from engine_fixture import both
from engine_programs import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALM = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("issue", ["inorder", "vliw"])
@CALM
@given(data=st.data())
def test_random_programs(issue: str, data: st.DataObject) -> None:
    both(*data.draw(cases(issue)))
