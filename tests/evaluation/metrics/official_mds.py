"""Random 3D boxes around those of scenes, and their scores by the 3D benchmark of Cityscapes.

`pip install cityscapesscripts`, then `python tests/evaluation/metrics/official_mds.py OUT.json` makes the file beside
this script anew. The package's command runs in a folder of its own, because it writes eval.log there.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lumen.core.boxes import CENTER, DIMENSIONS, LABEL, MODAL, ROTATION, SCORE, array_to_boxes, boxes_to_array
from lumen.evaluation.box_matching import amodal_boxes
from lumen.scenes import render
from lumen.scenes.export import describe_boxes
from lumen.scenes.objects import KINDS

SCALE = 16  # from scenes of 64 x 128 pixels to the benchmark's 1024 x 2048
SIZE = (2048, 1024)
NUM_FRAMES = 32
PARTS = ("AP", "Center_Dist", "Size_Similarity", "OS_Yaw", "OS_Pitch_Roll")


def scene_frame(seed: int) -> dict:
    """Return the boxes of a scene, rounded, in a frame of the benchmark's size."""
    scene = render(seed, (64, 128))
    frame = describe_boxes(scene) | {"imgWidth": SIZE[0], "imgHeight": SIZE[1], "objects": []}
    frame["sensor"] |= {key: frame["sensor"][key] * SCALE for key in ("fx", "fy", "u0", "v0")}
    for obj, flat, solid in zip(scene.graph["objects"], scene.boxes_2d, scene.boxes_3d, strict=True):
        boxes = {name: [side * SCALE for side in flat[name]] for name in ("modal", "amodal")}
        solid = {key: np.round(numbers, 4).tolist() for key, numbers in solid.items()}
        frame["objects"].append({"2d": boxes, "3d": solid, "label": obj["kind"], "score": 1.0})
    return frame


def make_object(rng: np.random.RandomState, frame: dict) -> dict:
    """Return an object at 10 to 120 m, or one around the camera's plane, turned about all axes."""
    distance = rng.uniform(10, 120) if rng.rand() < 0.6 else rng.uniform(-0.5, 2)
    center = np.array([distance, distance * rng.uniform(-0.4, 0.4) + rng.uniform(-2, 2), 1.0])
    dimensions, rotation = rng.uniform(1.5, 5, 3), rng.normal(size=4)
    numbers = [np.round(x, 4) for x in (center, dimensions, rotation / np.linalg.norm(rotation))]
    box = np.round(amodal_boxes(*(x[None] for x in numbers), frame["sensor"], SIZE)[0], 2).tolist()
    solid = dict(zip(("center", "dimensions", "rotation"), (x.tolist() for x in numbers), strict=True))
    return {"2d": {"amodal": box}, "3d": solid, "label": KINDS[rng.randint(len(KINDS))], "score": 1.0}


def predict(rng: np.random.RandomState, frame: dict) -> np.ndarray:
    """Return boxes near those of a frame: inexact, missing, double, misnamed and invented ones."""
    boxes = boxes_to_array(frame["objects"], KINDS)
    boxes = boxes[rng.rand(len(boxes)) < 0.9]
    boxes = np.concatenate([boxes, boxes[rng.rand(len(boxes)) < 0.3]])
    boxes[:, CENTER] += rng.normal(0, 0.15, (len(boxes), 3))
    boxes[:, DIMENSIONS] *= rng.uniform(0.9, 1.1, (len(boxes), 3))
    boxes[:, ROTATION] += rng.normal(0, 0.1, (len(boxes), 4))
    boxes[:, MODAL] += rng.uniform(-0.05, 0.05, (len(boxes), 4)) * boxes[:, [14, 15, 14, 15]]
    boxes[:, SCORE] = np.where(
        rng.rand(len(boxes)) < 0.3, rng.randint(51, size=len(boxes)) * 0.02, rng.rand(len(boxes))
    )
    is_other = rng.rand(len(boxes)) < 0.1
    boxes[is_other, LABEL] = rng.randint(len(KINDS), size=is_other.sum())
    invented = rng.uniform(1, 3, (rng.randint(3), 16))
    invented[:, CENTER] = rng.uniform(-4, 12, (len(invented), 3))  # some are behind the camera, or around it
    invented[:, LABEL], invented[:, SCORE] = rng.randint(len(KINDS), size=len(invented)), rng.rand(len(invented))
    invented[:, MODAL] = rng.uniform(0, 900, (len(invented), 4))
    return np.round(np.concatenate([boxes, invented]), 4).astype(np.float32)


def ignore_object(rng: np.random.RandomState, frame: dict) -> None:
    """Turn an object of a frame into a region in which detections do not count."""
    ignored = frame["objects"].pop(rng.randint(len(frame["objects"])))
    frame["ignore"].append({"2d": ignored["2d"].get("modal", ignored["2d"]["amodal"]), "label": ignored["label"]})


def make_frames() -> list[tuple[dict, list]]:
    """Return frames with predictions, of which the last frame has none."""
    rng, frames = np.random.RandomState(5), []
    for seed in range(NUM_FRAMES):
        frame = scene_frame(seed)
        frame["objects"] += [make_object(rng, frame) for _ in range(rng.randint(4))]
        boxes = predict(rng, frame)
        if rng.rand() < 0.4:
            ignore_object(rng, frame)
        frames.append((frame, [] if seed == NUM_FRAMES - 1 else boxes.tolist()))
    return frames


def score(frames: list[tuple[dict, list]], matching: str, max_distance: int, bin_width: int) -> dict[str, float]:
    """Return the scores of csEvalObjectDetection3d."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (frame, boxes) in enumerate(frames):
            objects = array_to_boxes(np.array(boxes, np.float32).reshape(-1, 16), KINDS)
            for name, content in (("gtBbox3d", frame), ("predBbox3d", {"objects": objects})):
                path = Path(folder, name, f"a_{number:06}_000019_{name}.json")
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(content))
        command = [sys.executable, "-m", "cityscapesscripts.evaluation.evalObjectDetection3d", "--noplot"]
        command += ["-gt", "gtBbox3d", "-pred", "predBbox3d", "--results-folder", "out", "--labels", *KINDS]
        command += [
            "--max-depth",
            str(max_distance),
            "--step-size",
            str(bin_width),
            *["--modal"] * (matching == "modal"),
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        result = json.loads(Path(folder, "out", "results.json").read_text())
    classes = {name: result["Detection_Score"][name] for name in KINDS}
    return {"mds": result["mDetection_Score"], **{part: result[f"m{part}"] for part in PARTS}, **classes}


def main(path: str) -> None:
    """Write frames, predictions and scores."""
    frames = make_frames()
    settings = [(m, *d) for m in ("modal", "amodal") for d in ((100, 5), (20, 2))]
    scores = [{"setting": setting, "scores": score(frames, *setting)} for setting in settings]
    content = {"frames": frames, "scores": scores}
    Path(path).write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
