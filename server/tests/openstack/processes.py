"""Servers that tests start: in a process of their own, with a log, gone when the test is."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

PR_SET_PDEATHSIG = 1
# Services import about a thousand modules before they answer.
READY_SECONDS = 300
STOP_SECONDS = 30


def free_port():
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool(name):
    """Path of a command of this environment."""
    return Path(sys.executable).parent / name


def run(*command, **environment):
    """Runs a command to its end; its output is shown only if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-4000:]}")


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """A process that answers HTTP at `url`; its output goes to `log`."""

    def __init__(self, command, url, log, **environment):
        self.url = url
        self.log = Path(log)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                preexec_fn=die_with_parent,
            )

    def wait_ready(self, path="/"):
        """Waits until it answers, whatever it says."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                requests.get(self.url + path, timeout=30)
                return
            except (requests.ConnectionError, requests.Timeout):
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no server at {self.url}:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self):
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self):
        """Ends it, at the latest after STOP_SECONDS by force."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()


UWSGI = """\
# http-socket closes each connection after its answer, and does not say so by itself. http11-socket would keep
# it open, but then an idle client holds a thread.
[uwsgi]
http-socket = 127.0.0.1:{port}
add-header = Connection: close
master = true
processes = 1
threads = 8
listen = 100
lazy-apps = true
need-app = true
die-on-term = true
no-orphans = true
buffer-size = 65535
socket-timeout = 60
disable-logging = true
module = {module}
"""


def wsgi_server(module, port, directory, **environment):
    """Serves a WSGI application of this environment's packages."""
    ini = Path(directory) / "uwsgi.ini"
    ini.write_text(UWSGI.format(module=module, port=port))
    command = [tool("uwsgi"), "--ini", ini, "--virtualenv", sys.prefix]
    log = Path(directory) / "log"
    return Server(command, f"http://127.0.0.1:{port}", log, **environment)
