"""The newest checkpoint is damaged, a batch is damaged, a rank is killed: an error that says so, or nothing lost."""

import json
import math
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lumen.training.checkpoint_io import found, step_of, verify

pytestmark = pytest.mark.long


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
def test_the_newest_checkpoint_is_damaged(harm, begin, at, dies, made, result, reference):
    begin(watchers=[at(5, dies)]).wait()
    newest, older = found(made() / "checkpoints")
    harm(newest)
    run = begin()
    assert run.wait() == [0]
    assert f"passing over a checkpoint: {newest.relative_to(Path.cwd())} cannot be used" in run.said()
    assert "continues at step 2:" in run.said() and step_of(older) == 2
    assert result() == reference()


def test_all_checkpoints_are_damaged(begin, at, dies, made):
    begin(watchers=[at(5, dies)]).wait()
    for path in found(made() / "checkpoints"):
        truncate(path)
    run = begin()
    assert run.wait() == [2]
    assert "none of the 2 checkpoints" in run.said() and "remove them to start anew" in run.said()


@pytest.mark.parametrize("every", [1, 100])
def test_a_batch_is_not_finite(every, begin, made, result, reference):
    """Every figure is looked at, or only what is to be saved."""

    class Spoilt(Callback):
        def on_train_batch_start(self, trainer, module, batch, index) -> None:
            if index == 4:
                (batch.image if batch.moments is None else batch.moments).fill_(math.nan)

    run = begin(watchers=[Spoilt()], first=lambda _: None if every == 1 else _look_seldom())
    assert run.wait() == [2]
    assert "the loss is no longer a finite number; the last checkpoint before it is kept" in run.said()
    kept = found(made() / "checkpoints")
    assert [step_of(path) for path in kept] == [4, 2]
    verify(kept[0])
    for path in Path("seen").iterdir():  # the spoilt batch was another one, and what came of it
        seen = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in seen if json.loads(line)["batch"] < 4))
    assert begin().wait() == [0]
    assert result() == reference()


def _look_seldom() -> None:
    from lumen.training.callbacks import Guard

    Guard.on_train_batch_end = lambda *_: None


@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_ranks_is_killed(victim, begin, at, dies, made, result, reference):
    run = begin(world=2, watchers=[at(5, dies, victim)])
    codes = run.wait(60)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] > 0
    assert [step_of(path) for path in found(made() / "checkpoints")] == [4, 2]
    assert begin(world=2).wait() == [0, 0]
    assert result() == reference(2)
