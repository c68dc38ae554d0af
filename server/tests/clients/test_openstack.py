"""python-openstackclient, as an operator types it."""

import json
import os
import pathlib
import subprocess
import sys
import uuid

import pytest
from conftest import digests

OPENSTACK = pathlib.Path(sys.executable).with_name("openstack")


@pytest.fixture
def openstack(endpoint):
    """Runs `openstack` without a Keystone; JSON that it prints is decoded."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    environment |= {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": endpoint}

    def run(*arguments, fails=False):
        command = [OPENSTACK, "image", *map(str, arguments)]
        if arguments[0] in ("create", "show", "list"):
            command += ["-f", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stderr
        if fails:
            return done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


def test_every_format_comes_back(openstack, image, tmp_path):
    name = f"debian {uuid.uuid4()}"
    created = openstack(
        "create", name, "--file", image.path, "--disk-format", image.disk_format,
        "--container-format", "bare",
    )  # fmt: skip
    shown = openstack("show", name)
    assert shown["id"] == created["id"]
    assert shown["status"] == "active"
    assert shown["size"] == image.size
    assert shown["virtual_size"] == image.virtual_size
    assert shown["checksum"] == image.md5
    assert shown["properties"]["os_hash_algo"] == "sha512"
    assert shown["properties"]["os_hash_value"] == image.sha512
    saved = tmp_path / "saved"
    openstack("save", name, "--file", saved)
    assert digests(saved) == (image.md5, image.sha512)
    openstack("delete", name)
    assert "No Image found" in openstack("show", name, fails=True)


def test_records(openstack, samples):
    name = f"debian {uuid.uuid4()}"
    openstack(
        "create", name, "--file", samples["raw"].path, "--property", "os_distro=debian",
        "--tag", "first", "--min-ram", 512, "--public",
    )  # fmt: skip
    openstack("set", name, "--property", "hw_disk_bus=scsi", "--tag", "second", "--min-disk", 4)
    shown = openstack("show", name)
    assert shown["properties"]["os_distro"] == "debian"
    assert shown["properties"]["hw_disk_bus"] == "scsi"
    assert sorted(shown["tags"]) == ["first", "second"]
    assert (shown["min_ram"], shown["min_disk"]) == (512, 4)
    assert shown["visibility"] == "public"

    openstack("unset", name, "--property", "hw_disk_bus", "--tag", "first")
    shown = openstack("show", name)
    assert "hw_disk_bus" not in shown["properties"]
    assert shown["tags"] == ["second"]

    listed = openstack("list", "--long", "--limit", 3, "--property", "os_distro=debian")
    assert name in [one["Name"] for one in listed]
    listed = openstack("list", "--name", name, "--status", "active", "--tag", "second")
    assert [one["Name"] for one in listed] == [name]

    openstack("set", name, "--protected")
    assert "protected" in openstack("delete", name, fails=True)
    openstack("set", name, "--unprotected", "--name", name + " renamed")
    openstack("set", name + " renamed", "--deactivate")
    assert openstack("show", name + " renamed")["status"] == "deactivated"
    openstack("set", name + " renamed", "--activate")
    openstack("delete", name + " renamed")


def test_content_that_is_not_what_it_claims(openstack, samples):
    name = f"fake {uuid.uuid4()}"
    errors = openstack("create", name, "--file", samples["raw"].path, "--disk-format", "qcow2", fails=True)
    assert "415" in errors or "match" in errors
    # The command deletes what it could not fill.
    assert "No Image found" in openstack("show", name, fails=True)


def test_pages(openstack):
    name = f"page {uuid.uuid4()}"
    for _ in range(4):
        openstack("create", name)
    listed = openstack("list", "--name", name, "--page-size", 2, "--sort-column", "Name")
    assert len(listed) == 4
    openstack("delete", *[one["ID"] for one in listed])
    assert openstack("list", "--name", name) == []
