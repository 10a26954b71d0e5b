"""W&B cannot be reached, goes away, or is told later: the run ends as without it, its curve has each step once."""

import gzip
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import pytest

from lumen.core.signals import STOPPED
from lumen.training import loggers as tracking

pytestmark = pytest.mark.long


class Server(ThreadingHTTPServer):
    """As much of W&B's server as a run speaks to, on this machine."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Desk)
        self.runs: list[dict[str, Any]] = []  # what it was told of runs that begin
        self.history: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []  # of how a run goes, beside its history
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, asked: str, about: dict[str, Any]) -> dict[str, Any]:
        there = {"id": "p", "name": "lumen", "entity": {"id": "e", "name": "me"}}
        lines, last = len(self.history), json.dumps(self.history[-1:] and {"_step": self.history[-1]["_step"]})
        bucket = {"id": "b", "name": about.get("name"), "project": there, "historyLineCount": lines, "config": "{}"}
        bucket |= {"eventsLineCount": 0, "logLineCount": 0, "summaryMetrics": "{}", "eventsTail": "[]", "tags": []}
        bucket |= {"historyTail": json.dumps([last]), "wandbConfig": '{"t": {"value": 1}}'}
        if "RunResumeStatus" in asked:
            return {"model": there | {"bucket": bucket if self.runs else None}}
        if "upsertBucket" in asked:
            self.runs.append(about)
            return {"upsertBucket": {"bucket": bucket, "inserted": len(self.runs) == 1}}
        if "createRunFiles" in asked:
            files = [{"name": name, "uploadUrl": f"{self.address}/file"} for name in about["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}


class Desk(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        if self.path == "/close":
            threading.Thread(target=self.server.close).start()
            self._reply({})
        elif self.path.endswith("file_stream"):
            told = json.loads(body)
            if lines := told.pop("files", {}).get("wandb-history.jsonl"):
                self.server.history[lines["offset"] :] = map(json.loads, lines["content"])
            self.server.told.append(told)
            self._reply({})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._reply({"data": self.server.answer(asked["query"], asked.get("variables") or {})})
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
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def known(address: str) -> dict[str, str]:
    """The environment of somebody who is logged in there."""
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}


def curve(server: Server) -> list[int]:
    """The steps of the run that have a training loss."""
    return [line["trainer/global_step"] for line in server.history if "train/loss" in line]


def test_wandb_does_not_answer(begin, free_port, made, result, reference):
    closed = f"http://127.0.0.1:{free_port()}"
    run = begin("wandb=online", first=lambda _: os.environ.update(known(closed)))
    assert run.wait() == [0], run.said()
    assert "W&B does not answer" in run.said() and "this run is logged offline" in run.said()
    assert result() == reference()
    assert len(list(made().glob("wandb/offline-run-*/*.wandb"))) == 1


def test_wandb_goes_away(begin, at, server, result, reference):
    """Left to itself, W&B's client waits for the server's return, and the run would never end."""

    def first(_: int) -> None:
        os.environ.update(known(server.address))
        server.socket.close()  # the fork's own
        tracking.FINISH = 3.0

    run = begin("wandb=online", first=first, watchers=[at(3, lambda: urlopen(f"{server.address}/close", b""))])
    assert run.wait() == [0], run.said()
    assert server.runs and result() == reference()


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_what_goes_on_is_the_same_run_of_wandb(mode, begin, at, server, made, reference, result):
    """Told to stop, and continued: under one id, each step once; offline files are sent when all is over."""

    def first(_: int) -> None:
        os.environ.update(known(server.address) | {"WANDB_MODE": mode})

    stops = at(3, lambda: signal.raise_signal(signal.SIGTERM))
    run = begin(f"wandb={mode}", first=first, watchers=[stops])
    assert run.wait() == [STOPPED], run.said()
    run = begin(f"wandb={mode}", first=first)
    assert run.wait() == [0] and "continues at step 4" in run.said(), run.said()
    parts = ("weights", "optimizer", "average", "history", "figures")
    assert {part: result()[part] for part in parts} == {part: reference()[part] for part in parts}
    if mode == "offline":
        assert not server.runs
        segments = sorted(made().glob("wandb/offline-run-*"))
        command = ["wandb", "sync", "--yes", *map(str, segments)]
        subprocess.run(command, check=True, timeout=120, env=os.environ | known(server.address))
    assert curve(server) == [0, 1, 2, 3, 4, 5]
    assert [line["_step"] for line in server.history] == list(range(len(server.history)))
    begun = [about for about in server.runs if about["groupName"]]
    assert {about["name"] for about in begun} == {(made() / "id").read_text()}
    assert {about["groupName"] for about in begun} == {"scenes"}
    origin = {"id": (made() / "id").read_text(), "step": 4}
    assert any(
        json.loads(about["config"] or "{}").get("resumed_from", {}).get("value") == origin for about in server.runs
    )
    assert any(told.get("preempting") for told in server.told)
    assert [told["exitcode"] for told in server.told if "exitcode" in told] == [STOPPED, 0]
