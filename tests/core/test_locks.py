"""Locks and guards: a directory has one writer, on any file system, and a writer its directory."""

import errno
import fcntl
import os
import signal
import time
from contextlib import ExitStack

import pytest

from lumen.core.errors import Mistake, RunBusy, RunMissing
from lumen.core.files import atomic_path, write
from lumen.core.guards import guard_directory
from lumen.core.locks import is_locked, lock_directory

BUSY = ("EAGAIN", "EWOULDBLOCK", "EACCES")
NO_LOCKS = ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EBADF", "EINVAL", "EIO", "ESTALE", "EPERM", "ENOTTY")


@pytest.fixture
def flock_fails(monkeypatch):
    """Function that lets every lock fail with an error."""

    def flock_fails(name: str) -> None:
        def flock(*_):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

        monkeypatch.setattr(fcntl, "flock", flock)

    return flock_fails


def test_lock_has_one_holder(tmp_path):
    run = tmp_path / "run"
    assert not is_locked(run) and not run.exists()
    with lock_directory(run) as is_real, lock_directory(run, ".other"), pytest.raises(RunBusy, match="in use"):
        assert is_real and is_locked(run)
        lock_directory(run).__enter__()
    with lock_directory(run):
        pass
    assert not is_locked(run)


def test_lock_is_shared_by_those_that_ask_for_it(tmp_path):
    with lock_directory(tmp_path, shared=True), lock_directory(tmp_path, shared=True):
        assert is_locked(tmp_path)
        with pytest.raises(RunBusy):
            lock_directory(tmp_path).__enter__()
    with lock_directory(tmp_path):
        pass


def test_lock_stays_with_those_that_share_it_when_its_maker_ends(tmp_path):
    directory = tmp_path / "new" / "locks"
    with lock_directory(directory):
        pass
    assert not (tmp_path / "new").exists()  # as after a command that was refused
    with ExitStack() as maker, lock_directory(tmp_path / "other", shared=True):
        maker.enter_context(lock_directory(directory, shared=True))
        with lock_directory(directory, shared=True):
            maker.close()
            with pytest.raises(RunBusy):
                lock_directory(directory).__enter__()


def test_lock_that_was_removed_while_a_process_waited_is_made_again(tmp_path, monkeypatch):
    path, flock, removed = tmp_path / ".lock", fcntl.flock, []

    def remove_first(*arguments):
        flock(*arguments)
        if not removed:
            removed.append(path.unlink())

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock_directory(tmp_path), pytest.raises(RunBusy):
        assert removed and path.exists()
        lock_directory(tmp_path).__enter__()


def test_lock_that_this_user_cannot_write_is_no_busy_one(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(Mistake, match="cannot be written: Permission denied") as caught:
        lock_directory(tmp_path).__enter__()
    assert not isinstance(caught.value, RunBusy)


def test_lock_is_released_by_a_forked_worker(tmp_path):
    with lock_directory(tmp_path):
        if (worker := os.fork()) == 0:
            signal.pause()
            os._exit(0)
    try:
        time.sleep(0.1)
        with lock_directory(tmp_path):  # although the worker is alive
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


@pytest.mark.parametrize("shared", [False, True])
def test_lock_over_nfs_is_got(shared, tmp_path, monkeypatch):
    """There, flock is a lock of bytes: an exclusive one needs a file open for writing, a shared one for reading."""
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    with lock_directory(tmp_path / "run", shared=shared) as is_real:
        assert is_real


@pytest.mark.parametrize("value", [None, "optional"])
@pytest.mark.parametrize("name", BUSY)
def test_lock_of_another_process_is_busy(name, value, tmp_path, flock_fails, monkeypatch):
    if value:
        monkeypatch.setenv("LUMEN_LOCKS", value)
    flock_fails(name)
    with pytest.raises(RunBusy):
        lock_directory(tmp_path).__enter__()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", NO_LOCKS)
def test_file_system_without_locks_is_named(name, shared, tmp_path, flock_fails, monkeypatch):
    flock_fails(name)
    with pytest.raises(Mistake, match="LUMEN_LOCKS=optional") as caught:
        lock_directory(tmp_path, shared=shared).__enter__()
    assert not isinstance(caught.value, RunBusy) and os.strerror(getattr(errno, name)) in str(caught.value)
    assert not is_locked(tmp_path)
    monkeypatch.setenv("LUMEN_LOCKS", "optional")
    with lock_directory(tmp_path, shared=shared) as is_real:
        assert not is_real


def move(run):
    run.rename(run.parent / "moved")


def move_parent(run):
    run.parent.rename(run.parent.parent / "moved")


def remove(run):
    (run / ".lock").unlink()
    run.rmdir()


def replace(run):
    move(run)
    run.mkdir()
    (run / ".lock").touch()


def replace_by_file(run):
    move(run)
    run.touch()


@pytest.mark.parametrize("change", [move, move_parent, remove, replace, replace_by_file])
@pytest.mark.parametrize("file", ["metrics.json", "checkpoints/step00000001.ckpt", "measuring/a/b.safetensors"])
def test_directory_that_is_not_in_its_place_is_not_written(change, file, tmp_path):
    run = tmp_path / "runs" / "run"
    with lock_directory(run):
        write(run / "config.yaml", "")
        (run / "config.yaml").unlink()
        change(run)
        files = sorted(tmp_path.rglob("*"))
        with pytest.raises(RunMissing, match="moved or removed"):
            write(run / file, "")
        write(tmp_path / "another", "")
        assert sorted(tmp_path.rglob("*")) == sorted([*files, tmp_path / "another"])
    write(run.parent / "later", "")


@pytest.mark.parametrize("change", [move, move_parent, replace])
def test_directory_that_moves_while_a_file_is_written_is_named(change, tmp_path):
    run = tmp_path / "runs" / "run"
    with lock_directory(run), pytest.raises(RunMissing), atomic_path(run / "file") as draft:
        draft.write_text("half")
        change(run)


def test_directory_may_be_put_back_or_linked(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "run"
    monkeypatch.chdir(tmp_path)
    with lock_directory(run.relative_to(tmp_path)):
        move(run)
        (run.parent / "moved").rename(run)
        write(run / "file", "1")
        move(run)
        run.symlink_to("moved")
        write(run / "file", "2")
    assert (run.parent / "moved" / "file").read_text() == "2"


def test_directory_that_does_not_exist_yet_is_not_guarded(tmp_path):
    with guard_directory(tmp_path / "run"):
        write(tmp_path / "run" / "file", "")
