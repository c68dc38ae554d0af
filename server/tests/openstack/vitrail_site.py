"""Sites of a Vitrail mesh whose users a Keystone knows."""

import os
import time
from pathlib import Path

import processes
import requests
from keystone_server import REGION
from personas import PASSWORD, PERSONAS

CONFIG = """\
[site]
name = "{name}"
data_dir = "{directory}/data"

[api]
listen = "127.0.0.1:{api_port}"
{api}

[admin]
listen = "127.0.0.1:{admin_port}"

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

[import]
{imports}
"""
# Servers of tests are not on the public Internet.
PRIVATE_IMPORTS = "allow_private = true"
AGREE_SECONDS = 60


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
    """A running site; `url` is its Image API, `admin_url` its operator's. It may be stopped and started again."""

    def __init__(self, keystone_url, authority, directory, name, seed=None, api="", imports=PRIVATE_IMPORTS):
        self.name = name
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        api_port, admin_port, self.peer_port = (processes.free_port() for _ in range(3))
        scheme = "https" if "tls_cert" in api else "http"
        self.url = f"{scheme}://127.0.0.1:{api_port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        authority.issue(name)
        who = PERSONAS["validator"]
        (self.directory / "site.toml").write_text(
            CONFIG.format(
                name=name,
                directory=self.directory,
                api_port=api_port,
                admin_port=admin_port,
                peer_port=self.peer_port,
                seed_port=seed.peer_port if seed else self.peer_port,
                authority=authority.directory,
                auth_url=keystone_url,
                user=who.user,
                password=PASSWORD,
                project=who.project,
                region=REGION,
                api=api,
                imports=imports,
            )
        )
        self.start()

    def start(self):
        command = [binary("vitraild"), "--config", self.directory / "site.toml"]
        self._server = processes.Server(command, self.admin_url, self.directory / "log")
        self._server.wait_ready("/healthz")
        wait("the site is ready", lambda: requests.get(self.admin_url + "/readyz", timeout=30).ok)

    def stop(self):
        self._server.stop()

    def kill(self):
        """Ends it as a loss of power does."""
        self._server.process.kill()
        self._server.process.wait()

    def operator(self, path, **query):
        """What the operator's API says."""
        answer = requests.get(self.admin_url + path, params=query, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()


def mesh(keystone_url, directory, *names, api=None):
    """Starts sites that know each other; `api` is what the configuration says of the Image API, by name."""
    authority = Authority(Path(directory) / "authority")
    sites = []
    for name in names:
        seed = sites[0] if sites else None
        more = {"api": api[name]} if api and name in api else {}
        sites.append(Site(keystone_url, authority, Path(directory) / name, name, seed, **more))
    for site in sites:
        wait(
            f"{site.name} sees all sites",
            lambda site=site: sum(one["up"] for one in site.operator("/v1/sites")) == len(names),
        )
    return sites


def wait(what, condition):
    """Waits until a condition holds, and returns what it returned."""
    deadline = time.monotonic() + AGREE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not in {AGREE_SECONDS} s: {what}"
        time.sleep(0.05)
    return result
