"""A site of the demo: a running daemon, and the command that speaks to it."""

import json
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


class DemoError(Exception):
    """The demo cannot go on, for the reason given."""


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: object, env: dict[str, str] | None = None, where: str = "") -> str:
    """Runs a command as if typed at a prompt, and returns its standard output."""
    words = [str(word) for word in command]
    say(f"{where}$ {shlex.join([Path(words[0]).name, *words[1:]])}")
    begin = time.monotonic()
    result = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise DemoError(f"{Path(words[0]).name} ended with exit code {result.returncode}")
    say(f"  {time.monotonic() - begin:.1f} s")
    return result.stdout


def free_udp_port() -> int:
    """A port that was free a moment ago: seeds must be known before their daemons start."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """A daemon in a directory of its own. Leaving the context stops it."""

    def __init__(self, programs: Path, directory: Path, name: str, certificates: Path, port: int, seeds: list[int]):
        self.programs = programs
        self.name = name
        self.data_dir = directory / name
        self.log = directory / f"{name}.log"
        self.config = directory / f"{name}.toml"
        seed_list = json.dumps([f"127.0.0.1:{seed}" for seed in seeds])
        self.config.write_text(f"""\
[site]
name = "{name}"
data_dir = "{self.data_dir}"

[api]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[peer]
listen = "127.0.0.1:{port}"
advertise = "127.0.0.1:{port}"
seeds = {seed_list}
ca = "{certificates}/ca.crt"
cert = "{certificates}/{name}.crt"
key = "{certificates}/{name}.key"
""")

    def __enter__(self) -> "Site":
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen([self.programs / "vitraild", "--config", self.config], stderr=log)
        try:
            endpoints = self._wait_for_endpoints()
        except BaseException:
            self.stop()
            raise
        self.admin = endpoints["admin"]
        self.env = os.environ | {
            "VITRAIL_ENDPOINT": endpoints["api"],
            "VITRAIL_ADMIN_ENDPOINT": endpoints["admin"],
        }
        say(f"{self.name}: the Image API is at {endpoints['api']}, the log in {self.log}")
        return self

    def _wait_for_endpoints(self) -> dict[str, str]:
        path = self.data_dir / "endpoints.json"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.daemon.poll() is not None:
                raise DemoError(f"{self.name} did not start:\n{self.log.read_text()}")
            if path.exists():
                return json.loads(path.read_text())
            time.sleep(0.05)
        raise DemoError(f"{self.name} is not ready after {START_TIMEOUT_S} s, see {self.log}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()

    def vitrail(self, *arguments: object) -> str:
        return run(self.programs / "vitrail", *arguments, env=self.env, where=f"{self.name} ")

    def _admin(self, path: str) -> str:
        with urllib.request.urlopen(self.admin + path, timeout=START_TIMEOUT_S) as answer:
            return answer.read().decode()

    def store(self) -> dict[str, int]:
        """Statistics of the store, in bytes."""
        return json.loads(self._admin("/v1/store"))

    def peers_up(self) -> int:
        """How many other sites this one sees."""
        return sum(site["up"] and not site["self"] for site in json.loads(self._admin("/v1/sites")))

    def received(self) -> dict[str, int]:
        """Bytes that came from each peer so far, as they were on the wire."""
        lines = re.findall(r'^vitrail_peer_rx_bytes_total\{peer="([^"]+)"\} (\S+)$', self._admin("/metrics"), re.M)
        return {peer: int(float(count)) for peer, count in lines}
