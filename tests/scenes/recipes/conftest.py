"""The probe is taught on as few scenes as the recipes draw in tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lumen.scenes.recipes.linear_probe.SEEN", 8)
        yield
