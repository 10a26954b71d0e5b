"""Launcher on W&B: its sweep file is valid by wandb's schema, expanded by its grid, and run by its agent."""

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

# wandb's own agent, with a server in this process that gives it the values of the grid.
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

# The command line of LUMEN, with other commands of a trial.
LUMEN = """#!{python}
import sys
from pathlib import Path
from lumen.sweeps import table
from lumen.__main__ import main
run_dir = lambda row: Path("runs") / row.name
commands = lambda self, row, seed: {{run_dir(row): f"quick {{run_dir(row)}} {words}"}}
table.Table.commands = commands
sys.exit(main())
"""


def write_sweep(*words: str) -> tuple[Path, dict]:
    """Write the sweep file of a command, and return it with its content."""
    assert main(["ablate", *words, "launcher=wandb"]) == 0
    (file,) = Path.cwd().glob("*/tables/*.sweep.yaml")
    return file, load_sweep_config(str(file))


def commands(sweep: dict) -> list[list[str]]:
    """Return the command that an agent makes of each value of the grid."""
    result, runs = [], []
    while (run := sweeps.next_run(sweep, runs)) is not None:
        runs.append(run)
        arguments = create_sweep_command_args({"args": run.config})
        arguments |= {"env": ["/usr/bin/env"], "program": [sweep["program"]]}
        words = create_sweep_command(list(sweep["command"]))
        result.append([part for word in words for part in (arguments[word[2:-1]] if word.startswith("${") else [word])])
    return result


@pytest.mark.parametrize(
    "words",
    [
        ["table1", "base=scenes", "rows=CLIP,SD", "seeds=2", "runs=my runs"],
        ["edits", "base=scenes", "eval.sampling.steps=3"],
        ["transfer", "base=scenes", "rows=ade20k,cityscapes", *ROOTS],
    ],
    ids=lambda words: words[0],
)
def test_wandb_agent_runs_the_printed_commands(words, workdir, capsys):
    assert main(["ablate", *words, "--print"]) == 0
    expected = capsys.readouterr().out.splitlines()
    file, sweep = write_sweep(*words)
    output = capsys.readouterr().out
    assert f"wandb sweep {shlex.quote(str(file.relative_to(workdir)))}" in output
    assert "wandb agent --forward-signals lumen/ID" in output
    assert sweep["method"] == "grid" and sweep["project"] == "lumen"
    for env, program, *rest in commands(sweep):
        assert (env, program) == ("/usr/bin/env", "lumen") and main([*rest, "--print"]) == 0
    assert capsys.readouterr().out.splitlines() == expected


def test_wandb_sweep_file_is_valid_by_its_schema(workdir):
    _, sweep = write_sweep("table1", "base=scenes", "seeds=2")
    violations = sweeps.schema_violations_from_proposed_config
    assert violations(sweep) == []
    for mistake in ({"methods": "grid"}, {"command": "lumen"}, {"parameters": {"trial": {"of": ["CLIP"]}}}):
        assert violations(sweep | mistake)


def test_wandb_sweep_holds_unfinished_trials_only(workdir):
    results = Path("runs/scenes/backbone=clip/seed0/metrics.json")
    results.parent.mkdir(parents=True)
    results.write_text('{"val/loss": 1.0}')
    _, sweep = write_sweep("table1", "base=scenes")
    assert sweep["parameters"]["trial"]["values"] == ["DINO", "DINOv2", "SD"]


def test_unknown_trial_is_answered_with_the_nearest(workdir, capsys):
    assert main(["ablate", "table1", "base=scenes", "seeds=2", "trial=CLIP seed3"]) == 2
    assert "table1 has no trial 'CLIP seed3'; did you mean 'CLIP seed" in capsys.readouterr().err


@pytest.fixture
def agent(quick, workdir, monkeypatch):
    """Function that starts an agent on three trials; each attempt of a trial performs the next action."""

    def start(actions: str) -> subprocess.Popen:
        script = workdir / "bin" / "lumen"
        script.parent.mkdir()
        script.write_text(LUMEN.format(python=sys.executable, words=actions))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
        file, _ = write_sweep("table1", "base=scenes", "rows=CLIP,DINO,SD", "accelerator=cpu")
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", AGENT, str(file)])

    return start


def attempts(workdir: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in workdir.glob("runs/*/attempts")}


@pytest.mark.long
def test_wandb_agent_runs_every_trial_once(agent, workdir):
    assert agent("finish").wait(120) == 0
    assert attempts(workdir) == {"CLIP": "x", "DINO": "x", "SD": "x"}


@pytest.mark.long
@pytest.mark.parametrize("cause", ["signal", "server"])
def test_wandb_agent_that_ends_leaves_no_process(agent, workdir, wait_for, cause):
    """It passes SIGTERM on, and kills its processes if the sweep is ended on the server."""
    process = agent("save_on_signal finish")
    run_dir = workdir / "runs" / "CLIP"
    wait_for((run_dir / "ready").exists)
    if cause == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        (workdir / "over").touch()
    process.wait(60)
    assert wait_for(lambda: (run_dir / "saved").exists() and (run_dir / "saved").read_text()) == "SIGTERM"
    assert attempts(workdir) == {"CLIP": "x"}
