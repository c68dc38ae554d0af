"""Real sites of one mesh."""

import os
import subprocess
import time
from pathlib import Path

import processes
import requests

AGREE_SECONDS = 30

CONFIG = """\
[site]
name = "{name}"
data_dir = "{directory}/data"

[api]
listen = "127.0.0.1:{api_port}"

[admin]
listen = "127.0.0.1:{admin_port}"

[peer]
listen = "127.0.0.1:{peer_port}"
seeds = ["127.0.0.1:{seed_port}"]
ca = "{authority}/ca.crt"
cert = "{authority}/{name}.crt"
key = "{authority}/{name}.key"

[store]
memory = "128MiB"
"""


class Site:
    """A daemon with the Image API at `url`. It may be stopped and started again."""

    def __init__(self, directory, name, authority, seed=None):
        """Start it; its certificate is made if there is none.

        :param authority: directory of the mesh's authority
        :param seed: a site that is there, None for the first
        """
        self.name = name
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        vitrail("ca", "issue", name, "--dir", authority)
        self.peer_port = processes.free_port()
        api_port, admin_port = processes.free_port(), processes.free_port()
        self.url = f"http://127.0.0.1:{api_port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        (self.directory / "site.toml").write_text(
            CONFIG.format(
                name=name,
                directory=directory,
                authority=authority,
                api_port=api_port,
                admin_port=admin_port,
                peer_port=self.peer_port,
                seed_port=seed.peer_port if seed else self.peer_port,
            )
        )
        self.start()

    def start(self):
        command = [os.environ["VITRAILD_BIN"], "--config", self.directory / "site.toml"]
        self._server = processes.Server(command, self.url, self.directory / "log")
        self._server.wait_ready()

    def stop(self):
        self._server.stop()

    def kill(self):
        """End it as a loss of power does."""
        self._server.process.kill()
        self._server.process.wait()

    def objects(self, **filters):
        """Return the documents of all hidden images."""
        answer = requests.get(f"{self.url}/v2/images", params={"os_hidden": "true"} | filters, timeout=30)
        answer.raise_for_status()
        return answer.json()["images"]

    def read(self, object_id):
        """Return an image's bytes and their MD5 as the site tells it."""
        answer = requests.get(f"{self.url}/v2/images/{object_id}/file", timeout=60)
        answer.raise_for_status()
        return answer.content, answer.headers["Content-MD5"]

    def sites_up(self):
        """Return the number of sites that this one takes for up."""
        answer = requests.get(f"{self.admin_url}/v1/sites", timeout=30)
        return sum(site["up"] for site in answer.json())

    def store(self):
        """Return the store's statistics."""
        return requests.get(f"{self.admin_url}/v1/store", timeout=30).json()


def mesh(directory, *names):
    """Start sites that know each other; the first is the others' seed."""
    authority = Path(directory) / "authority"
    vitrail("ca", "init", "--dir", authority)
    sites = []
    for name in names:
        sites.append(Site(Path(directory) / name, name, authority, sites[0] if sites else None))
    for site in sites:
        wait(f"{site.name} sees all sites", lambda site=site: site.sites_up() == len(names))
    return sites


def vitrail(*arguments):
    """Run the command-line client."""
    subprocess.run([os.environ["VITRAIL_BIN"], *map(str, arguments)], check=True, timeout=60, stdout=subprocess.DEVNULL)


def wait(what, condition):
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + AGREE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not in {AGREE_SECONDS} s: {what}"
        time.sleep(0.05)
    return result
