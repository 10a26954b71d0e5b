"""Table of the small models' metrics beside their required values: python -m lumen.scenes.recipes.quality."""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.scenes.recipes import weights_subdirectory

WORK = Path("runs/recipes")


@dataclass(frozen=True)
class Requirement:
    """Required value and goal of a metric that a recipe's `evaluate` returns.

    If the goal is below the required value, lower is better.
    """

    recipe: str
    metric: str
    required: float
    goal: float

    def verdict(self, value: float) -> str:
        """Return "goal met", "met" or "MISSED"."""
        sign = 1 if self.goal >= self.required else -1
        if sign * value >= sign * self.goal:
            return "goal met"
        return "met" if sign * value >= sign * self.required else "MISSED"


REQUIREMENTS = (
    Requirement("vae", "PSNR, dB", 26, 30),
    Requirement("segmenter", "mIoU", 0.85, 0.93),
    Requirement("segmenter", "mIoU retained", 0.94, 0.95),
    Requirement("depth", "SI", 8.5, 6),
    Requirement("vqa", "accuracy", 0.85, 0.95),
    Requirement("vqa", "blind", 0.5, 0.27),  # chance: the mean of a half, a quarter, a sixth and a seventh
    Requirement("dino", "gain", 0.18, 0.25),
    Requirement("dinov2", "gain", 0.18, 0.25),
    Requirement("clip", "gain", 0.18, 0.25),
    Requirement("unet", "gain", 0.35, 0.35),
    Requirement("unet", "VQA accuracy of samples", 0.84, 0.90),
    Requirement("unet", "VQA accuracy of samples, presence of a car", 0.75, 0.85),
    Requirement("unet", "VQA accuracy of samples, presence of a house", 0.75, 0.85),
)


def main() -> int:
    """Print every requirement as a row of a table, and return 1 if one is missed."""
    print("| model | metric, held-out scenes | value | required | goal | |\n|---|---|---|---|---|---|")
    metrics: dict[str, dict[str, float]] = {}
    verdicts = []
    for requirement in REQUIREMENTS:
        name = requirement.recipe
        if name not in metrics:
            evaluate = import_module(f"lumen.scenes.recipes.{name}").evaluate
            metrics[name] = evaluate(SCENES_WEIGHTS / weights_subdirectory(name), WORK)
        value = metrics[name][requirement.metric]
        verdicts.append(requirement.verdict(value))
        cells = [name, requirement.metric, f"{value:.4g}", str(requirement.required), str(requirement.goal)]
        print(f"| {' | '.join(cells)} | {verdicts[-1]} |", flush=True)
    return int("MISSED" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
