"""What the small models must reach on held-out scenes, and what they reach: python -m lumen.scenes.recipes.quality."""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lumen.features.pretrained import SCENES
from lumen.scenes.recipes import home

WORK = Path("runs/recipes")


@dataclass(frozen=True)
class Bar:
    """A figure of a recipe's `measure`; where the goal lies below what must be, less is better."""

    recipe: str
    figure: str
    must: float
    goal: float

    def verdict(self, value: float) -> str:
        sign = 1 if self.goal >= self.must else -1
        if sign * value >= sign * self.goal:
            return "goal met"
        return "met" if sign * value >= sign * self.must else "MISSED"


BARS = (
    Bar("vae", "PSNR, dB", 26, 30),
    Bar("segmenter", "mIoU", 0.85, 0.93),
    Bar("segmenter", "part kept", 0.85, 0.95),
    Bar("depth", "SI", 12, 6),
    Bar("vqa", "accuracy", 0.85, 0.95),
    Bar("vqa", "blind", 0.5, 0.27),  # chance: the mean of a half, a quarter, a sixth and a seventh
    Bar("unet", "gain", 0.10, 0.25),
    Bar("dino", "gain", 0.10, 0.25),
    Bar("dinov2", "gain", 0.10, 0.25),
    Bar("clip", "gain", 0.10, 0.25),
    Bar("unet", "answers right of samples", 0.6, 0.8),
)


def main() -> int:
    """Prints every bar as a line of a table; 1 where one is missed."""
    print("| model | figure, held-out scenes | is | must | goal | |\n|---|---|---|---|---|---|")
    reached: dict[str, dict[str, float]] = {}
    verdicts = []
    for bar in BARS:
        if bar.recipe not in reached:
            measure = import_module(f"lumen.scenes.recipes.{bar.recipe}").measure
            reached[bar.recipe] = measure(SCENES / home(bar.recipe), WORK)
        value = reached[bar.recipe][bar.figure]
        verdicts.append(bar.verdict(value))
        print(f"| {bar.recipe} | {bar.figure} | {value:.4g} | {bar.must} | {bar.goal} | {verdicts[-1]} |", flush=True)
    return int("MISSED" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
