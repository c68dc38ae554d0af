"""A real Keystone, two sites that believe it, and Nova's configuration for both."""

import json
import pathlib
import random
import subprocess
import sys

import nova.conf
import pytest
import requests
from keystoneauth1 import loading
from nova import context as nova_context
from nova import objects

OPENSTACK = pathlib.Path(__file__).parent.parent / "openstack"
sys.path.insert(0, str(OPENSTACK))

from vitrail_site import mesh  # noqa: E402


@pytest.fixture(scope="session")
def keystone():
    """What the Keystone of these tests says of itself."""
    server = subprocess.Popen([OPENSTACK / "keystone"], stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    assert line, "no Keystone"
    yield json.loads(line)
    server.terminate()
    server.wait(60)


@pytest.fixture(scope="session")
def sites(keystone, tmp_path_factory):
    """Two sites of one mesh, `north` and `south`."""
    started = mesh(keystone["auth_url"], tmp_path_factory.mktemp("mesh"), "north", "south")
    yield started
    for site in started:
        site.stop()


@pytest.fixture(scope="session")
def site(sites):
    """The one that clients use unless they say otherwise."""
    return sites[0]


@pytest.fixture(scope="session", autouse=True)
def configured(keystone, site, tmp_path_factory):
    """Nova as on a hypervisor: its own user vouches for the users whose instances it runs."""
    conf = nova.conf.CONF
    objects.register_all()
    conf([], default_config_files=[])
    conf.set_override("instances_path", str(tmp_path_factory.mktemp("instances")))
    conf.set_override("api_servers", [site.url], "glance")
    conf.set_override("send_service_user_token", True, "service_user")
    conf.set_override("auth_type", "password", "service_user")
    conf.register_opts(loading.get_auth_plugin_conf_options("password"), "service_user")
    service = keystone["personas"]["service"]
    for option, value in {
        "auth_url": keystone["auth_url"],
        "username": service["user"],
        "password": keystone["password"],
        "project_name": service["project"],
        "user_domain_id": "default",
        "project_domain_id": "default",
    }.items():
        conf.set_override(option, value, "service_user")
    return conf


@pytest.fixture(scope="session")
def acting(keystone):
    """Make the context of a persona's request: `acting("member")`."""

    def make(name):
        persona = keystone["personas"][name]
        domain = {"id": "default"}
        identity = {"user": {"name": persona["user"], "domain": domain, "password": keystone["password"]}}
        scope = {"project": {"id": persona["project_id"]}}
        body = {"auth": {"identity": {"methods": ["password"], "password": identity}, "scope": scope}}
        answer = requests.post(f"{keystone['auth_url']}/auth/tokens", json=body, timeout=60)
        answer.raise_for_status()
        return nova_context.RequestContext(
            user_id=answer.json()["token"]["user"]["id"],
            project_id=persona["project_id"],
            roles=persona["roles"],
            is_admin="admin" in persona["roles"],
            auth_token=answer.headers["X-Subject-Token"],
        )

    return make


@pytest.fixture(scope="session")
def member(acting):
    return acting("member")


@pytest.fixture(scope="session")
def disks(tmp_path_factory):
    """The same disk raw and as qcow2, by format."""
    directory = tmp_path_factory.mktemp("disks")
    paths = {"raw": directory / "disk.raw", "qcow2": directory / "disk.qcow2"}
    with open(paths["raw"], "wb") as disk:
        disk.truncate(16 << 20)
        disk.seek(1 << 20)
        disk.write(random.Random(1).randbytes(5_000_000))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", paths["raw"], paths["qcow2"]], check=True, timeout=60)
    return paths
