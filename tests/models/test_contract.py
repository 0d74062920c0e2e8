"""Every registered model passes the contract."""

from __future__ import annotations

import pytest

from dtbench.registry import MODELS
from tests.models.contract import CHECKS


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(name, check, tmp_path):
    check(name, tmp_path)
