"""A real MLflow server on the loopback, and a proxy before it that does what networks do."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support import environment

_START_SECONDS = 90.0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """``mlflow server`` on a sqlite database, with its artifacts in a directory beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = f"sqlite:///{directory}/server.db"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--workers", "1"]
        command += ["--artifacts-destination", str(self.directory / "artifacts")]
        settings = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**environment(), **settings},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self.directory / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it, rudely, with the processes it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@dataclass(frozen=True)
class Fault:
    """What a request meets instead of its answer, after ``delay`` seconds.

    ``status`` is answered by something in between, ``reset`` resets the connection; with neither
    the answer is merely late. ``after``: the server has carried the request out all the same.
    """

    status: int | None = None
    reset: bool = False
    after: bool = False
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html>something in between</html>"


HANGING = Fault(reset=True, delay=3600.0)


@dataclass(frozen=True)
class Request:
    """A request as the proxy sees it; ``number`` counts all of them from 1."""

    number: int
    method: str
    path: str
    headers: Any

    def is_for(self, *names: str) -> bool:
        """Whether it is a call of one of these, such as ``runs/log-batch``."""
        return any(f"/{name}" in self.path for name in names)


class Proxy:
    """Passes requests on to ``upstream``, except where ``fault`` says what happens to one."""

    def __init__(
        self,
        upstream: Server,
        fault: Callable[[Request], Fault | None] = lambda request: None,
        port: int = 0,
    ) -> None:
        self.fault = fault
        self.requests: list[Request] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(
                    len(proxy.requests) + 1, self.command, self.path, dict(self.headers)
                )
                proxy.requests.append(request)
                fault = proxy.fault(request) or Fault()
                lost = fault.reset or fault.status is not None
                if fault.after or not lost:
                    answer = _passed_on(upstream.port, request, body)
                proxy.stopping.wait(fault.delay)
                if fault.reset:
                    # Without a linger time closing resets the connection.
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    os.close(self.connection.detach())
                    self.close_connection = True
                elif fault.status is not None:
                    self._answer(fault.status, fault.headers, fault.body)
                else:
                    self._answer(*answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the client has given up
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _passed_on(port: int, request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """The server's own answer; 502 where there is none, as a gateway says it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in ("host", "connection", "accept-encoding", "authorization")
    }
    try:
        connection.request(request.method, request.path, body, headers)
        answer = connection.getresponse()
        kind = answer.getheader("Content-Type") or "application/json"
        return answer.status, {"Content-Type": kind}, answer.read()
    except OSError:
        return 502, {}, b"<html>bad gateway</html>"
    finally:
        connection.close()
