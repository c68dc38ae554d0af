"""Unmodified clients with a real Keystone: what people and services use."""

import io
import json
import os
import subprocess
import time
import uuid

import openstack
import processes
import pytest
from glanceclient import exc
from glanceclient.v2.client import Client
from image_api import Cloud
from keystoneauth1 import loading, session
from keystone_server import REGION
from openstack import exceptions
from personas import PASSWORD, PERSONAS

DATA = bytes(range(256)) * 5000


@pytest.fixture
def command(keystone, site):
    """Runs `openstack image …` as a persona; JSON that it prints is decoded."""

    def run(persona, *arguments, fails=False):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        environment |= keystone.environment(persona)
        line = [processes.tool("openstack"), "image", *map(str, arguments)]
        if arguments[0] in ("create", "show", "list") or arguments[:2] == ("member", "list"):
            line += ["-f", "json"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stderr
        if fails:
            return done.stderr
        return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else None

    return run


def cloud(keystone, persona):
    """openstacksdk as a persona."""
    who = PERSONAS[persona]
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        region_name=REGION,
        auth={
            "auth_url": keystone.url,
            "username": who.user,
            "password": PASSWORD,
            "project_name": who.project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
    )


def glanceclient(keystone, persona):
    who = PERSONAS[persona]
    auth = loading.get_plugin_loader("password").load_from_options(
        auth_url=keystone.url,
        username=who.user,
        password=PASSWORD,
        project_name=who.project,
        user_domain_id="default",
        project_domain_id="default",
    )
    return Client(session=session.Session(auth=auth), region_name=REGION)


def test_the_command_shares_an_image(keystone, command, tmp_path):
    name, saved = f"shared {uuid.uuid4()}", tmp_path / "saved"
    file = tmp_path / "disk.raw"
    file.write_bytes(DATA)
    made = command("member", "create", name, "--file", file, "--shared", "--property", "os_distro=x")
    image, other = made["id"], keystone.project_id("other")
    assert made["owner"] == keystone.project_id("member")
    assert "403" in command("reader", "create", name, fails=True)
    assert command("other", "show", image, fails=True)
    assert command("other", "list", "--shared") == []
    command("member", "add", "project", image, other)
    assert command("other", "list") == []
    pending = command("other", "list", "--shared", "--member-status", "pending")
    assert [one["ID"] for one in pending] == [image]
    command("other", "set", "--accept", image)
    assert [one["ID"] for one in command("other", "list", "--shared")] == [image]
    command("other", "save", image, "--file", saved)
    assert saved.read_bytes() == DATA
    members = command("member", "member", "list", image)
    assert [(one["Member ID"], one["Status"]) for one in members] == [(other, "accepted")]
    assert "403" in command("other", "set", image, "--name", "mine", fails=True)
    assert "403" in command("other", "set", image, "--public", fails=True)
    command("member", "remove", "project", image, other)
    assert command("other", "show", image, fails=True)
    command("member", "set", image, "--community")
    assert [one["ID"] for one in command("other", "list", "--community")] == [image]
    assert "403" in command("member", "set", image, "--public", fails=True)
    command("admin", "set", image, "--public")
    assert image in [one["ID"] for one in command("other", "list")]
    command("member", "set", image, "--deactivate")
    # It takes the refusal for data, and finds that the hash is wrong.
    assert command("other", "save", image, "--file", tmp_path / "refused", fails=True)
    command("member", "delete", image)


def test_glanceclient_shares_an_image(keystone, site):
    mine, theirs = glanceclient(keystone, "member"), glanceclient(keystone, "other")
    image = mine.images.create(name="shared", disk_format="raw", container_format="bare")
    mine.images.upload(image.id, io.BytesIO(DATA))
    assert mine.images.get(image.id).owner == keystone.project_id("member")
    with pytest.raises(exc.HTTPNotFound):
        theirs.images.get(image.id)
    other = keystone.project_id("other")
    assert mine.image_members.create(image.id, other).status == "pending"
    with pytest.raises(exc.HTTPForbidden):
        mine.image_members.update(image.id, other, "accepted")
    theirs.image_members.update(image.id, other, "accepted")
    assert [one.status for one in mine.image_members.list(image.id)] == ["accepted"]
    assert b"".join(theirs.images.data(image.id)) == DATA
    shared = theirs.images.list(filters={"visibility": "shared"})
    assert [one.id for one in shared] == [image.id]
    reader = glanceclient(keystone, "reader")
    with pytest.raises(exc.HTTPForbidden):
        reader.images.data(image.id)
    mine.image_members.delete(image.id, other)
    with pytest.raises(exc.HTTPNotFound):
        theirs.images.get(image.id)
    mine.images.delete(image.id)


def test_the_sdk_shares_an_image(keystone, site):
    mine, theirs = cloud(keystone, "member").image, cloud(keystone, "other").image
    image = mine.create_image("sdk", data=DATA, disk_format="raw", container_format="bare")
    other = keystone.project_id("other")
    mine.add_member(image, member=other)
    theirs.update_member(member=other, image=image.id, status="accepted")
    assert theirs.download_image(image.id).content == DATA
    with pytest.raises(exceptions.ForbiddenException):
        theirs.update_image(image.id, name="mine")
    mine.remove_member(other, image=image.id)
    assert theirs.find_image(image.id) is None
    mine.delete_image(image, ignore_missing=False)


def test_a_revoked_token_is_refused(keystone, site):
    api = Cloud("Vitrail", site.url, keystone)
    assert api.status("member", "GET", "/v2/images") == 200
    keystone.revoke(api.token("member"))
    deadline = time.monotonic() + 60
    while api.status("member", "GET", "/v2/images") != 401:
        assert time.monotonic() < deadline, "the token is still good"
        time.sleep(0.2)
    answer = api.request(None, "GET", "/v2/images")
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.url}"'


def test_sharing_reaches_the_other_site(keystone, sites):
    here, there = (Cloud(site.name, site.url, keystone) for site in sites)
    image = here.active(data=b"content")

    def wait_for(status):
        deadline = time.monotonic() + 60
        while there.status("other", "GET", f"/v2/images/{image}") != status:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert there.status("other", "GET", f"/v2/images/{image}/file") == 404
    begun = time.monotonic()
    here.invite(image, "other")
    wait_for(200)
    print(f"shared at the other site after {time.monotonic() - begun:.2f} s")
    assert there.request("other", "GET", f"/v2/images/{image}/file").content == b"content"
    here.delete(image)
    wait_for(404)


CLOUDS = {
    "devstack": "member",
    "devstack-alt": "other",
    "devstack-admin": "admin",
    "devstack-system-admin": "admin",
}


def test_the_sdks_own_functional_tests(keystone, site, tmp_path):
    """As shipped; those of metadata definitions are about what there is not yet."""
    clouds = {
        name: {
            "region_name": REGION,
            "auth": {
                "auth_url": keystone.url,
                "username": PERSONAS[persona].user,
                "password": PASSWORD,
                "project_name": PERSONAS[persona].project,
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
        }
        for name, persona in CLOUDS.items()
    }
    file = tmp_path / "clouds.yaml"
    file.write_text(json.dumps({"clouds": clouds}))
    # The file that one of them uploads.
    (tmp_path / "CONTRIBUTING.rst").write_text("This is not an image.\n")
    # They begin by looking for an image of this name.
    api = Cloud("Vitrail", site.url, keystone)
    api.active("admin", name="ubuntu", visibility="public")
    package = "openstack.tests.functional.image.v2"
    names = ("test_image", "test_member", "test_schema", "test_task")
    command = [processes.tool("python"), "-m", "unittest", "-v"]
    done = subprocess.run(
        [*map(str, command), *(f"{package}.{name}" for name in names)],
        cwd=tmp_path,
        env=os.environ | {"OS_CLIENT_CONFIG_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    assert "OK" in done.stderr.splitlines()[-1]
    print(done.stderr)

