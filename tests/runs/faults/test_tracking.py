"""Weights & Biases unreachable, gone or synced later: the run ends as without it, and its curve has each step once."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import pytest

from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.training import wandb_logger

pytestmark = pytest.mark.long


class WandbServer(ThreadingHTTPServer):
    """Part of W&B's server that a run talks to, on this machine.

    Attributes:
        runs: Requests that start or update a run.
        history: Logged lines.
        messages: Other messages of runs, such as their exit codes.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "lumen", "entity": {"id": "e", "name": "me"}}
        lines, last = len(self.history), json.dumps(self.history[-1:] and {"_step": self.history[-1]["_step"]})
        run = {"id": "b", "name": variables.get("name"), "project": project, "historyLineCount": lines, "config": "{}"}
        run |= {"eventsLineCount": 0, "logLineCount": 0, "summaryMetrics": "{}", "eventsTail": "[]", "tags": []}
        run |= {"historyTail": json.dumps([last]), "wandbConfig": '{"t": {"value": 1}}'}
        if "RunResumeStatus" in query:
            return {"model": project | {"bucket": run if self.runs else None}}
        if "upsertBucket" in query:
            self.runs.append(variables)
            return {"upsertBucket": {"bucket": run, "inserted": len(self.runs) == 1}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/file"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "createArtifact" in query:  # of a table's pictures; as if it were there already
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED"}}}
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}


class Handler(BaseHTTPRequestHandler):
    """Handler of one request to the server; `POST /close` shuts it down."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        if self.path == "/close":
            threading.Thread(target=self.server.close).start()
            self._reply({})
        elif self.path.endswith("file_stream"):
            message = json.loads(body)
            if lines := message.pop("files", {}).get("wandb-history.jsonl"):
                self.server.history[lines["offset"] :] = map(json.loads, lines["content"])
            self.server.messages.append(message)
            self._reply({})
        elif self.path == "/graphql":
            request = json.loads(body)
            self._reply({"data": self.server.answer(request["query"], request.get("variables") or {})})
        else:
            self._reply({})

    do_PUT = do_POST

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.close()


def login_environment(address: str) -> dict[str, str]:
    """Return the environment of a user who is logged in to a server."""
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}


def logged_steps(server: WandbServer) -> list[int]:
    """Return the steps of the run that have a training loss."""
    return [line["trainer/global_step"] for line in server.history if "train/loss" in line]


def test_wandb_without_an_answer_is_replaced_by_offline_files(
    start_run, free_port, run_dir, hash_run, reference_hashes
):
    closed = f"http://127.0.0.1:{free_port()}"

    def prepare(_: int) -> None:
        os.environ.update(login_environment(closed))
        wandb_logger.INIT_SECONDS = 3

    run = start_run("wandb=online", prepare=prepare)
    assert run.wait() == [0], run.output()
    assert "logged offline" in run.output()
    assert hash_run() == reference_hashes()
    assert len(list(run_dir().glob("wandb/offline-run-*/*.wandb"))) == 1


def test_wandb_that_goes_away_does_not_hold_up_the_run(start_run, before_step, server, hash_run, reference_hashes):
    """W&B's client by itself would wait for the server to return, and the run would never end."""

    def prepare(_: int) -> None:
        os.environ.update(login_environment(server.address))
        server.socket.close()  # the fork's own
        wandb_logger.FINISH_SECONDS = 3.0

    callbacks = [before_step(3, lambda: urlopen(f"{server.address}/close", b""))]
    run = start_run("wandb=online", prepare=prepare, callbacks=callbacks)
    assert run.wait() == [0], run.output()
    assert server.runs and hash_run() == reference_hashes()


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_run_stays_the_same_when_training_resumes(
    mode, start_run, before_step, server, run_dir, hash_run, reference_hashes
):
    """Stopped by a signal and resumed: one id, each step once; offline files are synced at the end."""

    def prepare(_: int) -> None:
        os.environ.update(login_environment(server.address) | {"WANDB_MODE": mode})

    callbacks = [before_step(3, lambda: signal.raise_signal(signal.SIGTERM))]
    run = start_run(f"wandb={mode}", prepare=prepare, callbacks=callbacks)
    assert run.wait() == [SIGNAL_EXIT_CODE], run.output()
    run = start_run(f"wandb={mode}", prepare=prepare)
    assert run.wait() == [0] and "resumes at step 4" in run.output(), run.output()
    parts = ("weights", "optimizer", "average", "history", "metrics")
    assert {part: hash_run()[part] for part in parts} == {part: reference_hashes()[part] for part in parts}
    if mode == "offline":
        assert not server.runs
        segments = sorted(run_dir().glob("wandb/offline-run-*"))
        command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, segments)]
        subprocess.run(command, check=True, timeout=120, env=os.environ | login_environment(server.address))
    assert logged_steps(server) == [0, 1, 2, 3, 4, 5]
    assert [line["_step"] for line in server.history] == list(range(len(server.history)))
    run_id = (run_dir() / "id").read_text()
    starts = [variables for variables in server.runs if variables["groupName"]]
    assert {variables["name"] for variables in starts} == {run_id}
    assert {variables["groupName"] for variables in starts} == {f"scenes/{run_dir().parent.name}"}
    configs = [json.loads(variables["config"] or "{}") for variables in server.runs]
    origin = {"id": run_id, "step": 4}
    assert any(config.get("resumed_from", {}).get("value") == origin for config in configs)
    assert any(message.get("preempting") for message in server.messages)
    exit_codes = [message["exitcode"] for message in server.messages if "exitcode" in message]
    assert exit_codes == [SIGNAL_EXIT_CODE, 0]
