"""Rendered scenes have exact labels, and are the same on every machine and at every size."""

import numpy as np
import pytest

from lumen.core.errors import Mistake
from lumen.scenes import CLASSES, render, split_seeds
from lumen.scenes.world import GROUNDS, SKIES, sample_world

SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes():
    return {seed: render(seed) for seed in SEEDS}


def block_means(image, side):
    """Return the mean colour of side x side blocks."""
    h, w, _ = image.shape
    return image.reshape(h // side, side, w // side, side, 3).mean((1, 3))


def points(scene):
    """Return the point (H, W, 3) of each pixel in the vehicle frame, from depth and camera alone."""
    camera, (h, w) = scene.camera, scene.depth.shape
    x, y, z = camera.ray_directions(np.arange(w) + 0.5, np.arange(h) + 0.5)
    depth = np.where(np.isfinite(scene.depth), scene.depth, 0).astype(float)
    return np.stack([depth * x, depth * y, depth * z + camera.height], -1)


def test_render_depends_on_the_seed_alone():
    first, second = render(11, 32), render(11, 32)
    assert np.array_equal(first.image, second.image)
    assert first.graph == second.graph and first.captions == second.captions
    assert not np.array_equal(first.image, render(12, 32).image)


# Mean colour of each quarter, top left to bottom right. If it changes, weights trained on the scenes are stale.
REFERENCE_COLOURS = {
    0: [203, 205, 209, 187, 186, 191, 140, 145, 152, 141, 147, 158],
    1: [162, 155, 147, 197, 196, 191, 174, 159, 128, 178, 162, 134],
    2: [123, 139, 160, 169, 187, 208, 180, 162, 128, 201, 176, 125],
    5: [170, 181, 199, 175, 180, 197, 153, 166, 165, 152, 158, 158],
    22: [165, 105, 98, 192, 131, 89, 97, 115, 47, 100, 121, 45],
    10000003: [180, 177, 162, 156, 171, 161, 186, 163, 119, 182, 162, 118],
}


@pytest.mark.parametrize("seed", REFERENCE_COLOURS)
def test_rendered_colours_match_the_reference(seed):
    assert np.allclose(block_means(render(seed).image, 32).reshape(-1), REFERENCE_COLOURS[seed], atol=0.6)


def test_rendered_arrays_have_their_shapes_and_types(scenes):
    for scene in scenes.values():
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.semantic.shape == scene.instance.shape == scene.depth.shape == scene.disparity.shape == (64, 64)
        assert (
            scene.semantic.dtype == scene.instance.dtype == np.uint8
            and scene.depth.dtype == scene.disparity.dtype == np.float32
        )


def test_instance_map_agrees_with_classes_and_graph(scenes):
    for scene in scenes.values():
        objects = scene.graph["objects"]
        for obj in objects:
            mask = scene.instance == obj["id"]
            assert (scene.semantic[mask] == CLASSES.index(obj["kind"])).all()
            assert obj["share"] == mask.mean() and 0 < obj["visible"] <= 1
        background = scene.semantic[scene.instance == 0]
        assert set(np.unique(background)) <= {0, CLASSES.index(scene.graph["ground"])}
        assert scene.instance.max() == len(objects)


def test_every_object_is_visible():
    for seed in range(60):
        assert all(obj["share"] > 0.015 for obj in render(seed, 32).graph["objects"])


def test_depth_of_the_ground_is_that_of_a_plane(scenes):
    for scene in scenes.values():
        ground = scene.semantic == CLASSES.index(scene.graph["ground"])
        rows = np.nonzero(ground)[0] + 0.5
        below = (rows - scene.camera.v0) / scene.camera.fy
        pitch = scene.camera.pitch
        assert np.allclose(
            scene.depth[ground], scene.camera.height / (np.sin(pitch) + below * np.cos(pitch)), rtol=1e-5
        )


def test_boxes_3d_enclose_their_objects(scenes):
    for scene in scenes.values():
        positions = points(scene)
        for k, box in enumerate(scene.boxes_3d, 1):
            w, _, _, z = box["rotation"]
            yaw = 2 * np.arctan2(z, w)
            rotation = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
            local = (positions[scene.instance == k] - box["center"]) @ rotation
            assert (np.abs(local) <= np.array(box["dimensions"]) / 2 + 1e-3).all()


def test_boxes_2d_enclose_their_pixels(scenes):
    for scene in scenes.values():
        for k, box in enumerate(scene.boxes_2d, 1):
            rows, cols = np.nonzero(scene.instance == k)
            x, y, w, h = box["modal"]
            assert (x, y, x + w - 1, y + h - 1) == (cols.min(), rows.min(), cols.max(), rows.max())
            ax, ay, aw, ah = box["amodal"]
            assert ax <= x and ay <= y and x + w <= ax + aw <= 64 and y + h <= ay + ah <= 64


def test_disparity_is_zero_in_the_sky_and_inverse_depth_elsewhere(scenes):
    for scene in scenes.values():
        sky = scene.semantic == CLASSES.index("sky")
        assert (
            np.isinf(scene.depth[sky]).all()
            and (scene.disparity[sky] == 0).all()
            and np.isfinite(scene.depth[~sky]).all()
        )
        assert np.allclose(
            scene.disparity[~sky], scene.camera.baseline * scene.camera.fx / scene.depth[~sky], rtol=1e-5
        )


def test_camera_extrinsic_agrees_with_projection():
    camera = render(0, 32).camera
    x, y, z, _ = camera.extrinsic @ (9.0, 2.0, 0.5, 1.0)
    u, v, depth = camera.project(np.array([9.0, 2.0, 0.5]))
    assert np.allclose((u, v, depth), (camera.u0 - camera.fx * y / x, camera.v0 - camera.fy * z / x, x))


@pytest.mark.parametrize("seed", [2, 5, 18, 33])
def test_scene_is_the_same_at_every_size(seed):
    small, large, wide = render(seed, 64), render(seed, 256), render(seed, (64, 128))
    assert small.captions == large.captions == wide.captions and small.boxes_3d == large.boxes_3d == wide.boxes_3d
    assert np.abs(block_means(small.image, 8) - block_means(large.image, 32)).mean() < 3
    assert (small.semantic == large.semantic[2::4, 2::4]).mean() > 0.97
    assert np.array_equal(small.semantic, wide.semantic[:, 32:96]) and np.array_equal(small.image, wide.image[:, 32:96])


def test_tall_image_contains_the_square_scene():
    assert np.array_equal(render(2, (128, 64)).instance[32:96], render(2, 64).instance)


def test_worlds_cover_every_ground_sky_and_kind():
    worlds = [sample_world(seed) for seed in range(100)]
    assert {w.ground for w in worlds} == set(GROUNDS) and {w.sky for w in worlds} == set(SKIES)
    assert {len(w.objects) for w in worlds} == {1, 2, 3, 4}
    assert {obj.kind for w in worlds for obj in w.objects} == set(CLASSES[5:])


def test_splits_do_not_overlap():
    train, val, test = (split_seeds(split, 10_000_000) for split in ("train", "val", "test"))
    assert (
        train.stop <= val.start and val.stop <= test.start and split_seeds("val", 3) == range(val.start, val.start + 3)
    )


@pytest.mark.parametrize("split, count", [("train", 10_000_001), ("train", -1), ("dev", 1)])
def test_split_seeds_reject_unknown_splits_and_counts(split, count):
    with pytest.raises(Mistake, match="scenes: "):
        split_seeds(split, count)
