"""Synthetic training images: of which run, for which images, with which labels, and the same after any interruption."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.config.identity import run_name
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.interfaces import IGNORE
from lumen.core.registry import datamodules, tasks
from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.runs import train as training
from lumen.runs.build import build_cache_options, build_task
from lumen.runs.cost.estimate import estimate_cost
from lumen.runs.data import build_data
from lumen.runs.state_hashes import hash_run_state
from lumen.runs.synthesis import build_synthetic_images
from lumen.training import synthetic_images
from lumen.training.feature_precomputer import FeaturePrecomputer
from lumen.training.precompute import build_precomputer

DAY = "data.skies=[clear,overcast]"
SHORT = ["data.images=6", DAY, "validation=2", "measure.images=2", "measure.anchors=[]", "metrics=[]", "workers=0"]
SHORT += [
    "sampling.steps=1",
    "sampling.images=1",
    "steps=2",
    "every.validate=9",
    "every.checkpoint=9",
    "wandb=disabled",
]
TASK = ["task=segmentation", "size=32", "batch=2", "lr=1e-3", "warmup=1", "accelerator=cpu", *SHORT]
SKIES = ["task.domains=[night,fog]", "task.share=0.5"]


@contextmanager
def recorded_skies() -> Iterator[dict[str, set[str]]]:
    """Record the skies of all scenes that are read, before and while outputs are scored."""
    skies: dict[str, set[str]] = {"before": set(), "scored": set()}
    stages = ["before"]
    scenes, evaluate_task = datamodules.factory("scenes"), training.evaluate_task
    read = scenes.read

    def recording_read(self, record):
        skies[stages[-1]].add(self.domain(record))
        return read(self, record)

    def recording_evaluation(*arguments):
        stages.append("scored")
        return evaluate_task(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "read", recording_read)
        patch.setattr(training, "evaluate_task", recording_evaluation)
        yield skies


@pytest.fixture(scope="session")
def trained_with_skies(tmp_path_factory, tiny_flags_of) -> tuple[Path, dict[str, set[str]]]:
    """Directory of a finished run that generates images of scenes by day, and the skies that it has read."""
    runs = tmp_path_factory.mktemp("generator")
    with recorded_skies() as skies:
        assert main(["train", "scenes", *tiny_flags_of("layout_to_image"), *SHORT, f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0")), skies


@pytest.fixture(scope="session")
def trained(trained_with_skies) -> Path:
    """Directory of a finished run that generates images of scenes by day."""
    return trained_with_skies[0]


@pytest.fixture(scope="session")
def judge(tmp_path_factory) -> Path:
    """Directory of a finished segmentation run on real images."""
    runs = tmp_path_factory.mktemp("judge")
    assert main(["train", "scenes", *TASK, f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


@pytest.fixture(scope="session")
def build(trained, tmp_path_factory):
    """Function of flags that returns data, task and precomputer of a run on generated images, with a cache filled."""
    runs = tmp_path_factory.mktemp("cache")

    def build(*flags: str):
        config = load("scenes", [*TASK, *SKIES, f"task.synthetic={trained}", f"runs={runs}", *flags])
        data = build_data(config)
        task = build_task(config, data)
        precomputer = build_precomputer(build_cache_options(config), data, task, "32-true")
        precomputer.fill(precomputer.select(None))
        return data, task, precomputer

    return build


def read_set(precomputer: FeaturePrecomputer, name: str) -> torch.Tensor:
    return torch.cat([torch.from_numpy(precomputer.stores[name].read(key).copy()) for (key,) in precomputer.keys])


def training_batch(data, precomputer):
    """Return all training images with the generated images of all sets."""
    batch = next(iter(data.views_dataloader([(i, 0) for i in range(len(data.source.train_records()))], 6)))
    batch.cached = {name: read_set(precomputer, name) for name in precomputer.stores}
    return batch


# ---- sets


def test_synthetic_sets_are_shared_by_seeds_batches_and_tasks(build, capsys):
    _, _, precomputer = build()
    assert [*precomputer.stores] == ["synthetic-night-0", "synthetic-fog-0"]
    capsys.readouterr()
    _, _, other = build("seed=3", "batch=3", "task.share=0.25")
    assert "generating" not in capsys.readouterr().out  # there are all
    assert {n: s.directory for n, s in other.stores.items()} == {n: s.directory for n, s in precomputer.stores.items()}
    recipe = json.loads((precomputer.stores["synthetic-fog-0"].directory / "recipe.json").read_text())
    assert recipe["domain"] == "fog" and recipe["prompts"] and "task" not in recipe
    assert not torch.equal(read_set(precomputer, "synthetic-night-0"), read_set(precomputer, "synthetic-fog-0"))


@pytest.mark.long
def test_forecast_of_a_synthetic_set_names_its_size_and_time(build, capsys):
    build("task.copies=2", "task.images=4")
    output = capsys.readouterr().out
    assert "generating 16 images (0.0492 MB), about" in output and "safe to interrupt" in output


@pytest.mark.long
def test_synthetic_sets_that_do_not_fit_are_refused(build):
    with pytest.raises(BadConfig, match="raise cache_gb"):
        build("cache_gb=1e-8", "task.copies=3")


@pytest.mark.long
def test_pruned_synthetic_set_is_generated_again(build):
    _, _, precomputer = build("task.domains=snow")
    before = read_set(precomputer, "synthetic-snow-0")
    for path in precomputer.stores["synthetic-snow-0"].directory.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])  # cut in the middle
    _, _, again = build("task.domains=snow")
    assert torch.equal(read_set(again, "synthetic-snow-0"), before)
    for path in again.stores["synthetic-snow-0"].directory.glob("*"):
        path.unlink()
    _, _, again = build("task.domains=snow")
    assert torch.equal(read_set(again, "synthetic-snow-0"), before)


@pytest.mark.long
def test_cost_of_synthetic_sets_is_estimated(trained):
    config = load("scenes", [*TASK, *SKIES, f"task.synthetic={trained}"])
    cost = estimate_cost(config)
    assert cost.precomputed == {"synthetic-night-0": 3 * 32**2, "synthetic-fog-0": 3 * 32**2}
    assert cost.parameters["synthetic"] > 0


# ---- mixing


def test_generated_images_keep_their_labels_and_depend_on_no_batch(build):
    data, task, precomputer = build()
    batch = training_batch(data, precomputer).to("cpu")
    keys = [(0, image_id, 7) for image_id in batch.id]
    mixed = task.synthetic_images.mix(batch, 0.5, keys)
    assert torch.equal(mixed.mask, batch.mask) and torch.equal(
        task.synthetic_images.mix(batch, 0.0, keys).image, batch.image
    )
    sets = [batch.cached[name].float() / 127.5 - 1 for name in precomputer.stores]
    origins = [
        next(k for k, x in enumerate([batch.image, *sets]) if torch.equal(x[i], mixed.image[i])) for i in range(6)
    ]
    assert 0 in origins and {*origins} - {0}
    shuffled = build("task.row=shuffled")[1].synthetic_images
    whole = shuffled.mix(batch, 1.0, keys)
    assert all((a != b).any() for a, b in zip(whole.mask, batch.mask, strict=True))
    for i in range(6):
        single = next(iter(data.views_dataloader([(i, 0)], 1))).to("cpu")
        single.cached = {name: rows[i : i + 1] for name, rows in batch.cached.items()}
        single = shuffled.mix(single, 1.0, keys[i : i + 1])
        assert torch.equal(single.mask[0], whole.mask[i]) and torch.equal(single.image[0], whole.image[i])


@pytest.mark.long
def test_filter_removes_labels_whose_loss_is_too_large(build, judge):
    data, task, precomputer = build("task.filter=0.5", f"task.filter_run={judge}")
    task.fit_statistics(data)
    pixel_filter = task.synthetic_images.pixel_filter
    batch = training_batch(data, precomputer).to("cpu")
    losses = pixel_filter.losses(batch.image, batch.mask)
    means = torch.stack([losses[batch.mask == c].mean() for c in range(len(data.source.classes))])
    assert torch.allclose(pixel_filter.limits, (0.5 * means.double()).nan_to_num(nan=torch.inf), rtol=1e-4)
    mixed = task.synthetic_images.mix(batch, 1.0, [(0, image_id, 1) for image_id in batch.id])
    generated = pixel_filter.losses(mixed.image, batch.mask)
    is_large = generated > pixel_filter.limits[batch.mask]
    assert is_large.any() and torch.equal(mixed.mask, torch.where(is_large, IGNORE, batch.mask))
    assert torch.equal(task.synthetic_images.mix(batch, 0.0, [(0, i, 1) for i in batch.id]).mask, batch.mask)


@pytest.mark.long
def test_images_limits_what_a_run_learns_from(build):
    data, _, precomputer = build("task.images=4")
    ids = [record.id for record in data.source.records("train")]
    assert [record.id for record in data.dataset("train").records] == [ids[0], ids[1], ids[3], ids[4]]
    assert len(read_set(precomputer, "synthetic-fog-0")) == 4


# ---- unseen skies


def test_no_sky_but_those_of_the_data_set_is_in_a_batch_before_scoring(trained_with_skies, workdir):
    """Neither in training, validation, statistics and samples of the generator, nor in those of the segmentation."""
    trained, skies = trained_with_skies
    assert skies["before"] == {"clear", "overcast"} and skies["scored"] <= {"clear", "overcast"}
    command = ["train", "scenes", *TASK, *SKIES, f"task.synthetic={trained}", "metrics=[miou]", "measure.images=4"]
    with recorded_skies() as skies:
        assert main([*command, "task.unseen=scenes", "task.unseen.skies=[night,fog]"]) == 0
    assert skies["before"] == {"clear", "overcast"} and {"night", "fog"} <= skies["scored"]
    values = json.loads(next(workdir.glob("runs/scenes/*/seed0/metrics.json")).read_text())
    keys = {"test/miou", "test/miou-night", "test/miou-fog", "test/miou-mean"}
    assert keys <= values.keys() and "recipe" in values["protocol"] and "synthetic" not in str(values["protocol"])
    mean = (values["test/miou-night"] + values["test/miou-fog"]) / 2
    assert values["test/miou-mean"] == pytest.approx(mean)


# ---- mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["task.domains=[night]"], "task.domains has no effect without generated images"),
        (["task.synthetic={trained}", "task.domains=[rain]"], "no captions for a domain 'rain'"),
        (["task.synthetic={trained}", "size=64"], "was trained with size=32, and this run has size=64"),
        (["task.synthetic={trained}", "task.filter=1.25"], "task.filter needs task.filter_run=RUN"),
        (["task.synthetic={trained}", "task.filter=1", "task.filter_run={trained}"], "name a run that predicts labels"),
        (["task.synthetic={trained}", "task.images=7"], "task.images=7 is more than the 6 training images"),
        (["task.synthetic={trained}", "task.images=1", "task.row=shuffled"], "two training images or more"),
        pytest.param(
            ["task.synthetic={judge}"], "predicts labels; name a run that generates images", marks=pytest.mark.long
        ),
        (["task.synthetic=runs"], "runs is no run directory"),
    ],
)
def test_mistake_about_synthetic_images_is_named(flags, words, trained, request):
    judge = request.getfixturevalue("judge") if "{judge}" in str(flags) else ""
    config = load("scenes", [*TASK, *(flag.format(trained=trained, judge=judge) for flag in flags)])
    with pytest.raises((BadConfig, UnknownName), match=words):
        build_synthetic_images(config, build_data(config), build_task)


def test_run_of_another_data_set_or_unfinished_is_refused(trained, tmp_path):
    run = tmp_path / "scenes" / "copy" / "seed0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text((trained / "config.yaml").read_text())
    config = load("scenes", [*TASK, f"task.synthetic={run}"])
    with pytest.raises(BadConfig, match="is not finished; repeat"):
        build_synthetic_images(config, build_data(config), build_task)
    config = load("ade20k", [*TASK[:6], f"task.synthetic={trained}", "data.root=x"])
    with pytest.raises(BadConfig, match="was trained with data=scenes, and this run has data=ade20k"):
        build_synthetic_images(config, build_data(load("scenes", TASK)), build_task)


def test_synthetic_run_names_a_folder_wherever_it_lies(trained, tmp_path):
    names = {
        run_name({"flags": {"task.synthetic": str(path)}})
        for path in (Path("runs/scenes/a/seed0"), tmp_path / "runs/scenes/a/seed0", Path("runs/scenes/b/seed0"))
    }
    assert len(names) == 2 and all(len(name) == len("task.synthetic=") + 8 for name in names)


# ---- paths


@pytest.mark.long
def test_killed_synthesis_and_training_end_with_the_same_bits(trained, workdir, monkeypatch, capsys):
    command = ["train", "scenes", *TASK, *SKIES, f"task.synthetic={trained}", "steps=4", "ema=0.5"]
    assert main([*command, "runs=whole"]) == 0
    calls, generate = [], synthetic_images.SyntheticImages.generate

    def stop_at_third(self, name, batch):
        calls.append(name)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return generate(self, name, batch)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_images.SyntheticImages, "generate", stop_at_third)
        assert main([*command, "runs=stopped"]) != 0
    kind = tasks.factory("segmentation")
    step = kind.training_step

    def stop(self, batch, batch_idx):
        if self.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "training_step", stop)
        assert main([*command, "runs=stopped"]) == SIGNAL_EXIT_CODE
    for path in workdir.glob("stopped/cache/synthetic-*/*.npy"):
        path.unlink()  # pruned in the middle of the run
    assert main([*command, "runs=stopped"]) == 0
    whole, stopped = (next(workdir.glob(f"{runs}/scenes/*/seed0")) for runs in ("whole", "stopped"))
    assert hash_run_state(whole) == hash_run_state(stopped)
    contents = [
        {path.name: path.read_bytes() for path in workdir.glob(f"{runs}/cache/synthetic-*/*.npy")}
        for runs in ("whole", "stopped")
    ]
    assert contents[0] == contents[1] and contents[0]


@pytest.mark.long
def test_geometry_learns_from_generated_images_and_writes_its_boxes(trained, tmp_path):
    own = [flag for flag in TASK if not flag.startswith(("task=", "metrics="))]
    flags = ["task=geometry", *own, f"task.synthetic={trained}", "task.domains=[night]", "task.share=1"]
    flags += ["metrics=[disparity_rmse,mds]", "measure.save_predictions=true", f"runs={tmp_path}"]
    assert main(["train", "scenes", *flags]) == 0
    run = next(tmp_path.glob("scenes/*/seed0"))
    results = json.loads((run / "metrics.json").read_text())
    assert results["steps"] == 2 and {"test/disparity_rmse", "val/loss"} <= results.keys()
    assert len(list((run / "predBbox3d").glob("*_predBbox3d.json"))) == 2
    assert list((tmp_path / "cache").glob("synthetic-night-0*"))
