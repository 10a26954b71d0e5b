"""Completion: what may follow on a command line, and the scripts of the shells."""

import shutil
import subprocess
import sys

import pytest

from lumen.__main__ import COMMANDS, main
from lumen.cli.completion import SHELLS, complete, shell_script
from lumen.config.experiment import list_experiments
from lumen.config.schema import SLOTS
from lumen.core.registry import metrics
from lumen.sweeps.specs import table_names


def offered(line: str) -> list[str]:
    """Return the words that are offered, without their descriptions."""
    return [candidate.partition("\t")[0] for candidate in complete(line)]


@pytest.fixture(autouse=True)
def runs(workdir):
    """Two runs, one of them with flags in its name, and a folder that is none."""
    for name in ("default", "backbone=clip,lr=0.001"):
        directory = workdir / "runs" / "scenes" / name / "seed0"
        directory.mkdir(parents=True)
        (directory / "config.yaml").touch()
    (workdir / "runs" / "scenes" / "cache" / "seed0").mkdir(parents=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lumen ", {verb.split()[0] for verb in COMMANDS}),
        ("/venv/bin/lumen tra", {"train"}),
        ("lumen -q tra", {"train"}),
        ("lumen cache ", {"build", "ls", "verify", "prune"}),
        ("lumen train ", set(list_experiments())),
        ("lumen train scenes ba", {"backbone=", "batch="}),
        ("lumen train scenes 'ba", {"backbone=", "batch="}),
        ("lumen train scenes backbone=d", {"backbone=dino", "backbone=dinov2", "backbone=dinov3"}),
        ("lumen train scenes task=", {f"task={name}" for name in SLOTS["task"].names()}),
        ("lumen train scenes backbone.f", {"backbone.facet=", "backbone.fit="}),
        ("lumen train scenes backbone=clip backbone.s", {"backbone.size="}),
        ("lumen train coco_stuff backbone.se", {"backbone.seed="}),
        ("lumen train scenes backbone.patch=", {"backbone.patch=8", "backbone.patch=16"}),
        ("lumen train scenes metrics.lpips.t", {"metrics.lpips.trunk="}),
        ("lumen train scenes metrics=[miou,lp", {"metrics=[miou,lpips"}),
        ("lumen train scenes metrics=[", {f"metrics=[{name}" for name in metrics.names()}),
        ("lumen train scenes compile=", {"compile=true", "compile=false"}),
        ("lumen train scenes diffusion.si", {"diffusion.size="}),
        ("lumen train scenes wandb=o", {"wandb=online", "wandb=offline"}),
        ("lumen train scenes best=", {"best=val/loss", "best=null"}),
        ("lumen train scenes --h", {"--help"}),
        ("lumen show scenes --c", {"--cost"}),
        ("lumen eval ", {"runs/scenes/default/seed0", "runs/scenes/backbone=clip,lr=0.001/seed0"}),
        ("lumen eval runs/scenes/backbone=c", {"runs/scenes/backbone=clip,lr=0.001/seed0"}),
        ("lumen ablate ", {*table_names(), *list_experiments()}),
        ("lumen ablate table1 base=sc", {"base=scenes"}),
        ("lumen ablate table1 rows=D", {"rows=DINO", "rows=DINOv2"}),
        ("lumen ablate table1 rows=SD,DINOv", {"rows=SD,DINOv2"}),
        ("lumen ablate table1 launcher=sl", {"launcher=slurm"}),
        ("lumen ablate table1 launcher=slurm slurm.h", {"slurm.hours="}),
        ("lumen data check coco", {"coco_stuff"}),
        ("lumen worst x metric=mi", {"metric=miou"}),
        ("lumen compare a b metrics=miou,lp", {"metrics=miou,lpips"}),
        ("lumen help wandb.mo", {"wandb.mode"}),
        ("lumen list experi", {"experiments"}),
        ("lumen completion ", set(SHELLS)),
    ],
)
def test_completion_offers_what_may_follow(line, words):
    assert set(offered(line)) == words


@pytest.mark.parametrize(
    "line",
    [
        "lumen train scenes data.root=",
        "lumen sample runs/scenes/default/seed0 ",
        "lumen x ",
        "lumen train 'a b",
        "lumen \\",
        "",
    ],
)
def test_completion_leaves_paths_and_the_unknown_to_the_shell(line):
    assert complete(line) == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_completion_of_a_verb_offers_all_its_options(verb):
    keys = {f"{key}=" if value else key for key, value in COMMANDS[verb].options.items()}
    words = {"EXPERIMENT": "scenes", "TABLE": "table1"}
    line = " ".join(
        ["lumen", verb, *(words.get(place, "x") for place in COMMANDS[verb].placeholders if place != "...")]
    )
    assert all(key in offered(f"{line} {key[:-1]}") for key in keys)


def test_completion_describes_what_it_offers():
    assert "base model" not in complete("lumen train scenes lr")[0]
    assert complete("lumen train scenes lr")[0] == "lr=\tAdamW (ControlNet's tutorial)"
    assert complete("lumen train scenes weight_d") == ["weight_decay=\t(diffusers' train_controlnet.py)"]
    assert complete("lumen trai")[0] == f"train\t{COMMANDS['train'].help}"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_command_prints_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == shell_script(shell) and "lumen completion" in shell_script(shell)


def test_completion_command_knows_its_shells(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "bash, zsh, fish, not in tcsh" in capsys.readouterr().err
    assert main(["completion", "--line", "lumen nothing "]) == 0
    assert capsys.readouterr().out == ""  # an empty line would keep the shell from offering files


BASH = """
lumen() { "$PYTHON" -m lumen "$@"; }
source <(lumen completion bash)
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(lumen) COMP_WORDBREAKS=${2-$COMP_WORDBREAKS}
_lumen 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
complete -p lumen
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "breaks", "words"),
    [
        ("lumen train scenes backbone=d", "=: ", ["dino", "dinov2", "dinov3"]),
        ("lumen train scenes backbone=d", " ", ["backbone=dino", "backbone=dinov2", "backbone=dinov3"]),
        ("lumen train scenes ba", "=: ", ["backbone=", "batch="]),
        ("lumen train scenes metrics=[miou,lp", "=: ", ["[miou,lpips"]),
        ("lumen eval runs/scenes/backbone=c", "=: ", ["clip,lr=0.001/seed0"]),
    ],
)
def test_completion_in_bash_replaces_what_follows_a_word_break(line, breaks, words):
    if shutil.which("bash") is None:
        pytest.skip("this system has no bash")
    result = subprocess.run(
        ["bash", "-c", BASH, "bash", line, breaks], capture_output=True, text=True, env={"PYTHON": sys.executable}
    )
    *found, registration = result.stdout.splitlines()
    assert found == words and registration == "complete -o default -F _lumen lumen", result.stderr
