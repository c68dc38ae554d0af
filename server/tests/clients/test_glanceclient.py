"""python-glanceclient: the library that Nova, Cinder, Heat and Horizon use, and its command."""

import hashlib
import io
import os
import pathlib
import subprocess
import sys
import uuid

import pytest
from conftest import digests
from glanceclient import exc
from glanceclient.v2.client import Client

GLANCE = pathlib.Path(sys.executable).with_name("glance")


@pytest.fixture
def glance(endpoint):
    return Client(endpoint, token="anything")


def test_every_format_comes_back(glance, image):
    created = glance.images.create(name="debian", disk_format=image.disk_format, container_format="bare")
    assert created.status == "queued"
    with open(image.path, "rb") as file:
        glance.images.upload(created.id, file)
    shown = glance.images.get(created.id)
    assert shown.status == "active"
    assert (shown.size, shown.virtual_size) == (image.size, image.virtual_size)
    assert (shown.checksum, shown.os_hash_value) == (image.md5, image.sha512)
    # The client checks the hash of what it gets.
    received = hashlib.sha512()
    for block in glance.images.data(created.id):
        received.update(block)
    assert received.hexdigest() == image.sha512
    glance.images.delete(created.id)
    with pytest.raises(exc.HTTPNotFound):
        glance.images.get(created.id)


def test_records(glance):
    mark = uuid.uuid4().hex
    first = glance.images.create(name="a", mark=mark, tags=["x"], disk_format="raw")
    second = glance.images.create(name="b", mark=mark, visibility="private")
    listed = glance.images.list(filters={"mark": mark}, sort_key=["name"], sort_dir=["asc"])
    assert [one.name for one in listed] == ["a", "b"]
    paged = glance.images.list(filters={"mark": mark}, page_size=1)
    assert [one.name for one in paged] == ["b", "a"]
    assert [one.name for one in glance.images.list(filters={"mark": mark, "tag": ["x"]})] == ["a"]

    changed = glance.images.update(first.id, remove_props=["mark"], name="c", min_ram=64, hw_disk_bus="virtio")
    assert (changed.name, changed.min_ram, changed.hw_disk_bus) == ("c", 64, "virtio")
    assert "mark" not in changed
    glance.image_tags.update(first.id, "y")
    glance.image_tags.delete(first.id, "x")
    assert glance.images.get(first.id).tags == ["y"]
    for one in (first, second):
        glance.images.delete(one.id)


def test_schema_is_what_the_client_builds_its_model_from(glance):
    schema = glance.schemas.get("image")
    formats = schema.raw()["properties"]["disk_format"]["enum"]
    assert {"raw", "qcow2", "vmdk", "iso", None} <= set(formats)
    assert schema.is_base_property("checksum")
    with pytest.raises(TypeError):
        glance.images.create(name="x", disk_format="no such format")


def test_refusals_keep_their_meaning(glance):
    one = glance.images.create(name="x", disk_format="qcow2", container_format="bare")
    with pytest.raises(exc.HTTPConflict):
        glance.images.create(id=one.id)
    with pytest.raises(exc.HTTPException) as refused:
        glance.images.upload(one.id, io.BytesIO(b"not a qcow2 image" * 10_000))
    assert "HTTP 415" in str(refused.value)
    assert "does not match" in str(refused.value)
    assert glance.images.get(one.id).status == "queued"
    glance.images.update(one.id, protected=True)
    with pytest.raises(exc.HTTPForbidden):
        glance.images.delete(one.id)
    glance.images.update(one.id, protected=False)
    # Nova makes images without bytes of volumes so.
    glance.images.upload(one.id, io.BytesIO(), image_size=0)
    assert glance.images.get(one.id).size == 0
    with pytest.raises(exc.HTTPConflict):
        glance.images.upload(one.id, io.BytesIO(b"again"))
    glance.images.delete(one.id)
    with pytest.raises(exc.HTTPNotFound):
        glance.images.delete(one.id)


def test_deactivation(glance):
    one = glance.images.create(name="x", disk_format="raw", container_format="bare")
    glance.images.upload(one.id, io.BytesIO(b"bytes"))
    glance.images.deactivate(one.id)
    assert glance.images.get(one.id).status == "deactivated"
    glance.images.reactivate(one.id)
    assert b"".join(glance.images.data(one.id)) == b"bytes"
    glance.images.delete(one.id)


def test_the_command(endpoint, samples, tmp_path):
    image = samples["compressed"]

    def run(*arguments):
        access = ["--os-image-url", endpoint, "--os-auth-token", "anything"]
        command = [GLANCE, *access, *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    id = str(uuid.uuid4())
    run(
        "image-create", "--id", id, "--name", "debian", "--file", image.path,
        "--disk-format", "qcow2", "--container-format", "bare", "--property", "a=b",
    )  # fmt: skip
    assert image.md5 in run("image-show", id)
    assert id in run("image-list", "--limit", 2, "--property-filter", "a=b")
    run("image-update", id, "--name", "renamed", "--remove-property", "a")
    run("image-tag-update", id, "blue")
    shown = run("image-show", id)
    assert "renamed" in shown
    assert "blue" in shown
    saved = tmp_path / "saved"
    run("image-download", id, "--file", saved)
    assert digests(saved) == (image.md5, image.sha512)
    run("image-delete", id)
