"""A real Keystone: SQLite, Fernet tokens, the personas of personas.py.

What takes long (the database's migrations, the bootstrap, the personas) is done once and kept as a template
beside the environment; a new Keystone is a copy of it.
"""

import argparse
import fcntl
import getpass
import grp
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import requests

import processes
from personas import PASSWORD, PERSONAS

REGION = "RegionOne"
CONFIG = """\
[database]
connection = sqlite:///{directory}/keystone.sqlite

[token]
expiration = {token_seconds}

[fernet_tokens]
key_repository = {directory}/fernet-keys

[credential]
key_repository = {directory}/credential-keys

[identity]
# Passwords of a test are no secrets; the default takes a quarter of a second for each login.
password_hash_rounds = 4
"""


class Keystone:
    """A running Keystone; `url` ends in /v3."""

    def __init__(self, directory, port=None, token_seconds=3600):
        self.directory = Path(directory)
        self.port = port or processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}/v3"
        shutil.copytree(template(), self.directory, dirs_exist_ok=True)
        self.token_seconds = token_seconds
        self._server = serve(self.directory, self.port, token_seconds)
        self._projects = None
        self._admin = None
        # Those who validate tokens look for it in the catalogue.
        register(self, "identity", "keystone", self.url)

    def restart(self):
        """Starts it again after `stop`, with the tokens and users that it had."""
        self._server = serve(self.directory, self.port, self.token_seconds)

    def stop(self):
        self._server.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()

    def token(self, persona):
        """A new token of a persona, scoped to their project."""
        token, _ = login(self.url, PERSONAS[persona])
        return token

    def project_id(self, persona):
        """Id of a persona's project."""
        if self._projects is None:
            projects = self.admin("GET", "/projects").json()["projects"]
            self._projects = {project["name"]: project["id"] for project in projects}
        return self._projects[PERSONAS[persona].project]

    def revoke(self, token):
        """Makes a token invalid."""
        self.admin("DELETE", "/auth/tokens", headers={"X-Subject-Token": token})

    def register_image_endpoint(self, url):
        """Makes `url` the image service of the catalogue, or another one than before."""
        register(self, "image", "glance", url)

    def admin(self, method, path, **request):
        """A request as the administrator; its answer, which is no error."""
        if self._admin is None:
            self._admin = self.token("admin")
        headers = {"X-Auth-Token": self._admin} | request.pop("headers", {})
        answer = requests.request(
            method, self.url + path, headers=headers, timeout=60, **request
        )
        answer.raise_for_status()
        return answer

    def environment(self, persona):
        """The variables that OpenStack's clients read."""
        who = PERSONAS[persona]
        return {
            "OS_AUTH_URL": self.url,
            "OS_USERNAME": who.user,
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": who.project,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_DOMAIN_ID": "default",
            "OS_IDENTITY_API_VERSION": "3",
            "OS_IMAGE_API_VERSION": "2",
            "OS_REGION_NAME": REGION,
        }


def serve(directory, port, token_seconds=3600):
    """Runs the Keystone of a directory."""
    config = directory / "keystone.conf"
    config.write_text(CONFIG.format(directory=directory, token_seconds=token_seconds))
    server = processes.wsgi_server(
        "keystone.wsgi.api:application",
        port,
        directory,
        OS_KEYSTONE_CONFIG_FILES=str(config),
    )
    server.wait_ready("/v3")
    return server


def login(url, persona, password=PASSWORD):
    """A new token and what Keystone says of it."""
    body = {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {
                    "user": {
                        "name": persona.user,
                        "domain": {"id": "default"},
                        "password": password,
                    }
                },
            },
            "scope": {"project": {"name": persona.project, "domain": {"id": "default"}}},
        }
    }
    answer = requests.post(url + "/auth/tokens", json=body, timeout=60)
    answer.raise_for_status()
    return answer.headers["X-Subject-Token"], answer.json()["token"]


def register(keystone, kind, name, url):
    services = keystone.admin("GET", "/services", params={"type": kind}).json()["services"]
    if services:
        service = services[0]["id"]
    else:
        body = {"service": {"type": kind, "name": name}}
        service = keystone.admin("POST", "/services", json=body).json()["service"]["id"]
    known = keystone.admin("GET", "/endpoints", params={"service_id": service})
    for endpoint in known.json()["endpoints"]:
        keystone.admin("DELETE", f"/endpoints/{endpoint['id']}")
    for interface in ("public", "internal", "admin"):
        endpoint = {
            "service_id": service,
            "interface": interface,
            "region": REGION,
            "url": url,
        }
        keystone.admin("POST", "/endpoints", json={"endpoint": endpoint})


def template():
    """Directory of a Keystone that has everything and does not run; made if it is missing."""
    here = Path(__file__).parent
    sources = [here / "requirements.txt", here / "personas.py", Path(__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    cache = Path(sys.prefix).parent
    made = cache / f"keystone-{digest.hexdigest()[:12]}"
    with open(cache / "keystone.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            building = cache / "keystone-building"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            build(building)
            building.rename(made)
    return made


def build(directory):
    config = directory / "keystone.conf"
    config.write_text(CONFIG.format(directory=directory, token_seconds=3600))
    admin = PERSONAS["admin"]

    def manage(*arguments):
        processes.run(
            processes.tool("keystone-manage"), "--config-file", config, *arguments
        )

    manage("db_sync")
    me = ("--keystone-user", getpass.getuser(), "--keystone-group", grp.getgrgid(os.getgid()).gr_name)
    manage("fernet_setup", *me)
    manage("credential_setup", *me)
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}/v3"
    manage(
        *("bootstrap", "--bootstrap-password", PASSWORD),
        *("--bootstrap-username", admin.user),
        *("--bootstrap-project-name", admin.project),
        *("--bootstrap-region-id", REGION),
    )
    with serve(directory, port):
        invite(url)
    for left in ("uwsgi.ini", "log", "keystone.conf"):
        (directory / left).unlink()


def invite(url):
    """Makes the personas, their projects and roles."""
    keystone = Keystone.__new__(Keystone)
    keystone.url, keystone._admin, keystone._projects = url, None, None

    def ids(kind):
        return {one["name"]: one["id"] for one in keystone.admin("GET", f"/{kind}s").json()[f"{kind}s"]}

    def ensure(kind, known, name, **fields):
        if name not in known:
            made = keystone.admin("POST", f"/{kind}s", json={kind: {"name": name} | fields})
            known[name] = made.json()[kind]["id"]
        return known[name]

    projects, users, roles = ids("project"), ids("user"), ids("role")
    for persona in PERSONAS.values():
        project = ensure("project", projects, persona.project, domain_id="default")
        user = ensure("user", users, persona.user, domain_id="default", password=PASSWORD)
        for name in persona.roles:
            role = ensure("role", roles, name)
            keystone.admin("PUT", f"/projects/{project}/users/{user}/roles/{role}")


def main():
    parser = argparse.ArgumentParser(description="Run a Keystone until told to end.")
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--image-endpoint", metavar="URL", help="the catalogue's image service")
    parser.add_argument("--token-seconds", type=int, default=3600, help="life of a token")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keystone-") as directory:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with Keystone(directory, arguments.port, arguments.token_seconds) as keystone:
            if arguments.image_endpoint:
                keystone.register_image_endpoint(arguments.image_endpoint)
            print(json.dumps(describe(keystone)), flush=True)
            try:
                signal.pause()
            except KeyboardInterrupt:
                pass


def describe(keystone):
    return {
        "auth_url": keystone.url,
        "region": REGION,
        "password": PASSWORD,
        "personas": {
            name: {
                "user": who.user,
                "project": who.project,
                "project_id": keystone.project_id(name),
                "roles": who.roles,
            }
            for name, who in PERSONAS.items()
        },
    }


if __name__ == "__main__":
    main()
