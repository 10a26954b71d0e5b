"""Samples of layouts from files, and of the run that comes with LUMEN."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import reload
from lumen.runs import shipped
from lumen.runs.build import build_task
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.runs.photos import load_photo
from lumen.runs.sample import load_task
from lumen.training.half_weights import convert_checkpoint


def read_png(path):
    """Return the pixels of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sample_command_takes_an_edited_layout(finished, photo, workdir, capsys):
    arguments = ["sample", str(finished), str(photo), "a house"]
    assert main([*arguments, "out=own/"]) == main([*arguments, "out=same/", "layout=own/layout.npy"]) == 0
    layout = np.load("own/layout.npy")
    np.save("other.npy", -1000 * layout)  # in four steps the ControlNet has learnt little
    assert main([*arguments, "out=other/", "layout=other.npy"]) == 0
    own, same, other = ({path.name: read_png(path) for path in sorted(Path(name).glob("*.png"))} for name in
                        ("own", "same", "other"))  # fmt: skip
    assert all((own[name] == same[name]).all() for name in own)
    assert (own["0.png"] != other["0.png"]).any() and (own["sheet.png"] != other["sheet.png"]).any()
    assert (np.load("other/layout.npy") == -1000 * layout).all()
    np.save("few.npy", layout[:2])
    np.save("infinite.npy", layout * np.inf)
    Path("text.npy").write_text("no layout")
    np.save("objects.npy", np.array([[[{}]]]), allow_pickle=True)
    for name in ("few.npy", "infinite.npy", "text.npy", "objects.npy", "missing.npy"):
        assert main([*arguments, "out=refused/", f"layout={name}"]) == 2
        assert name in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert not Path("refused").exists()


def test_run_that_comes_with_lumen_is_a_folder_of_halves(finished, photo, workdir, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "SHIPPED_RUN", workdir / "shipped")
    assert main(["sample", "scenes", str(photo), "a house"]) == 2
    assert "lumen train scenes" in capsys.readouterr().err
    convert_checkpoint(sorted((finished / "checkpoints").glob("*.ckpt"))[-1], workdir / "shipped")
    shutil.copy(finished / "config.yaml", workdir / "shipped")
    assert main(["sample", "scenes", str(photo), "a house"]) == 0
    assert len(list(Path("samples").glob("photo-*.png"))) == 1 and len(list((workdir / "shipped").iterdir())) == 2
    task, weights = (load_task(run, reload(load_run_config(run))) for run in (finished, workdir / "shipped"))
    batch = load_photo(photo, 32)
    assert torch.equal(task.layout(batch), weights.layout(batch))  # the basis stays in float32
    halves, wholes = (dict(x.named_parameters()) for x in (weights, load_raw(finished)))
    assert all(torch.equal(halves[name], value.half().float()) for name, value in wholes.items())


def load_raw(run):
    """Return the task of a run without averaged weights."""
    config = reload(load_run_config(run))
    task = build_task(config, build_data(config))
    restore(task, select_checkpoint(run, config), averaged=False)
    return task
