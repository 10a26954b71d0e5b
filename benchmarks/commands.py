"""CPU seconds of commands that need no torch: python -m benchmarks.commands."""

import os
import resource
import subprocess
import sys
import tempfile
from statistics import median

TINY = ["size=32", "diffusion.weights=none", "backbone=dino", "backbone.size=tiny", "backbone.weights=none", "batch=2"]
TINY += ["data.images=4", "validation=2", "conditioning.vectors=20", "steps=1", "metrics=[lpips]", "measure.images=3"]
TINY += ["sampling.steps=1", "sampling.images=1", "wandb=disabled", "accelerator=cpu", "measure.anchors=[]"]
ROW = [flag for flag in TINY if flag != "backbone=dino"]
COMMANDS = {  # command: CPU seconds that it may take
    "list": 0.3,
    "cache ls": 1.0,
    "data check coco_stuff root=/missing": 1.0,
    f"train scenes {' '.join(TINY)}": 1.0,
    f"table table1 base=scenes rows=DINO {' '.join(ROW)}": 1.0,
}
ROUNDS = 5


def cpu_seconds(command: str) -> float:
    """Return user and system time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lumen", *command.split()], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Train a tiny run and print its table once, then time each command with nothing left to do."""
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for command in COMMANDS:
            cpu_seconds(command)
        print("| command | CPU seconds, median | limit |\n|---|---|---|")
        for command, limit in COMMANDS.items():
            seconds = median(cpu_seconds(command) for _ in range(ROUNDS))
            print(f"| `lumen {' '.join(command.split()[:2])}` | {seconds:.2f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
