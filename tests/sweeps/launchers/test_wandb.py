"""The sweep that launcher=wandb writes: valid by wandb's schema, dealt out by its grid, run by its agent."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sweeps
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from lumen.__main__ import main

ROOTS = [f"{name}.data.root=/nowhere" for name in ("ade20k", "cityscapes", "bdd100k")]

# In place of W&B's server one that deals out a grid, and wandb's own agent, which runs what it is dealt.
AGENT = """
import pathlib, queue, sys
import wandb
from wandb import wandb_agent
from wandb.apis.public import sweeps as server

text = pathlib.Path(sys.argv[1]).read_text()
config = wandb_agent.util.load_json_yaml_dict(sys.argv[1])
left = config["parameters"]["trial"]["values"]

def heartbeat(api, agent, metrics, running):
    if running:
        return [{"type": "exit"}] if pathlib.Path("over").exists() else []
    if not left:
        return [{"type": "exit"}]
    trial = {"trial": {"value": left.pop(0)}}
    return [{"type": "run", "run_id": f"run{len(left)}", "program": config["program"], "args": trial}]

server._sweep_with_runs = lambda *_: {"config": text}
server._register_agent = lambda *_, **__: {"id": "agent"}
server._agent_heartbeat = heartbeat
wandb.Api = lambda: None
wandb_agent.Agent.POLL_INTERVAL = 0.1
wandb_agent.Agent(None, queue.Queue(), sweep_id="sweep", forward_signals=True).run()
"""

# The command line as it is, but for what a trial does.
LUMEN = """#!{python}
import sys
from pathlib import Path
from lumen.sweeps import table
from lumen.__main__ import main
home = lambda row: Path("runs") / row.name
commands = lambda self, row, seed: {{home(row): f"quick {{home(row)}} {words}"}}
table.Table.commands = commands
sys.exit(main())
"""


def sweep_of(*words: str) -> tuple[Path, dict]:
    assert main(["ablate", *words, "launcher=wandb"]) == 0
    (file,) = Path.cwd().glob("*/tables/*.sweep.yaml")
    return file, load_sweep_config(str(file))


def commands(sweep: dict) -> list[list[str]]:
    """What an agent makes of each value that the grid deals out."""
    made, dealt = [], []
    while (run := sweeps.next_run(sweep, dealt)) is not None:
        dealt.append(run)
        given = create_sweep_command_args({"args": run.config})
        given |= {"env": ["/usr/bin/env"], "program": [sweep["program"]]}
        words = create_sweep_command(list(sweep["command"]))
        made.append([word for c in words for word in (given[c[2:-1]] if c.startswith("${") else [c])])
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["table1", "base=scenes", "rows=CLIP,SD", "seeds=2", "runs=my runs"],
        ["edits", "base=scenes", "eval.sampling.steps=3"],
        ["transfer", "base=scenes", "rows=ade20k,cityscapes", *ROOTS],
    ],
    ids=lambda words: words[0],
)
def test_agents_run_the_very_commands(words, place, capsys):
    assert main(["ablate", *words, "--print"]) == 0
    wanted = capsys.readouterr().out.splitlines()
    file, sweep = sweep_of(*words)
    said = capsys.readouterr().out
    assert f"wandb sweep {shlex.quote(str(file.relative_to(place)))}" in said
    assert "wandb agent --forward-signals lumen/ID" in said
    assert sweep["method"] == "grid" and sweep["project"] == "lumen"
    for env, program, *rest in commands(sweep):
        assert (env, program) == ("/usr/bin/env", "lumen") and main([*rest, "--print"]) == 0
    assert capsys.readouterr().out.splitlines() == wanted


def test_the_file_is_valid_by_the_schema_of_wandb(place):
    _, sweep = sweep_of("table1", "base=scenes", "seeds=2")
    violations = sweeps.schema_violations_from_proposed_config
    assert violations(sweep) == []
    for wrong in ({"methods": "grid"}, {"command": "lumen"}, {"parameters": {"trial": {"of": ["CLIP"]}}}):
        assert violations(sweep | wrong)


def test_only_what_is_left_is_in_the_sweep(place):
    done = Path("runs/scenes/backbone=clip/seed0/metrics.json")
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    _, sweep = sweep_of("table1", "base=scenes")
    assert sweep["parameters"]["trial"]["values"] == ["DINO", "DINOv2", "SD"]


def test_a_trial_that_is_not_there_is_answered_with_the_nearest(place, capsys):
    assert main(["ablate", "table1", "base=scenes", "seeds=2", "trial=CLIP seed3"]) == 2
    assert "table1 has no trial 'CLIP seed3'; did you mean 'CLIP seed" in capsys.readouterr().err


@pytest.fixture
def agent(quick, place, monkeypatch):
    """Starts an agent on three trials, each of which ends as the words say, try by try."""

    def start(words: str) -> subprocess.Popen:
        script = place / "bin" / "lumen"
        script.parent.mkdir()
        script.write_text(LUMEN.format(python=sys.executable, words=words))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
        file, _ = sweep_of("table1", "base=scenes", "rows=CLIP,DINO,SD", "accelerator=cpu")
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", AGENT, str(file)])

    return start


def tries(place: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in place.glob("runs/*/tries")}


@pytest.mark.long
def test_an_agent_has_every_trial_run_once(agent, place):
    assert agent("done").wait(120) == 0
    assert tries(place) == {"CLIP": "x", "DINO": "x", "SD": "x"}


@pytest.mark.long
@pytest.mark.parametrize("how", ["told", "over"])
def test_an_agent_that_ends_leaves_no_training_unattended(agent, place, wait_for, how):
    """It hands TERM on, and where the sweep is ended on the server it kills what it has started."""
    process = agent("saves done")
    home = place / "runs" / "CLIP"
    wait_for((home / "ready").exists)
    if how == "told":
        process.send_signal(signal.SIGTERM)
    else:
        (place / "over").touch()
    process.wait(60)
    assert wait_for(lambda: (home / "saved").exists() and (home / "saved").read_text()) == "SIGTERM"
    assert tries(place) == {"CLIP": "x"}
