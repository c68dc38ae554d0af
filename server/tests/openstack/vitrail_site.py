"""Sites of a Vitrail mesh whose users a Keystone knows."""

import json
import os
import subprocess
import time
from pathlib import Path

import processes
from keystone_server import REGION
from personas import PASSWORD, PERSONAS

CONFIG = """\
[site]
name = "{name}"
data_dir = "{directory}/data"

[api]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[peer]
listen = "127.0.0.1:{peer_port}"
seeds = ["127.0.0.1:{seed_port}"]
ca = "{authority}/ca.crt"
cert = "{authority}/{name}.crt"
key = "{authority}/{name}.key"

[auth]
mode = "keystone"
auth_url = "{auth_url}"
username = "{user}"
password = "{password}"
project_name = "{project}"
region_name = "{region}"
cache_s = 1
{more}
"""
READY_SECONDS = 60


def binary(name):
    return Path(os.environ["VITRAIL_BIN"]) / name


class Authority:
    """Who says which sites are of the mesh."""

    def __init__(self, directory):
        self.directory = Path(directory)
        processes.run(binary("vitrail"), "ca", "init", "--dir", self.directory)

    def issue(self, site):
        processes.run(binary("vitrail"), "ca", "issue", site, "--dir", self.directory)


class Site:
    """A running site; `url` is its Image API."""

    def __init__(self, keystone, authority, directory, name, seed=None, more=""):
        self.name = name
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self.peer_port = processes.free_port()
        authority.issue(name)
        who = PERSONAS["validator"]
        config = self.directory / "site.toml"
        config.write_text(
            CONFIG.format(
                name=name,
                directory=self.directory,
                peer_port=self.peer_port,
                seed_port=seed.peer_port if seed else self.peer_port,
                authority=authority.directory,
                auth_url=keystone.url,
                user=who.user,
                password=PASSWORD,
                project=who.project,
                region=REGION,
                more=more,
            )
        )
        self.log = self.directory / "log"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [binary("vitraild"), "--config", config],
                stderr=log,
                preexec_fn=processes.die_with_parent,
            )
        endpoints = self.directory / "data" / "endpoints.json"
        deadline = time.monotonic() + READY_SECONDS
        while not endpoints.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no site:\n{self.log.read_text()}")
            time.sleep(0.1)
        known = json.loads(endpoints.read_text())
        self.url, self.admin_url = known["api"], known["admin"]

    def stop(self):
        self._process.terminate()
        self._process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()
