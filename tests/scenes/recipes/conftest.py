"""Linear probes and comparisons of as few scenes as the recipes render in tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def small_train_set():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lumen.scenes.recipes.linear_probe.NUM_TRAIN_SCENES", 8)
        patch.setattr("lumen.scenes.recipes.unet.SAMPLE_SHARE", 1)
        yield
