"""openstacksdk: what Ansible, Nodepool and many scripts use."""

import hashlib

import openstack
import pytest
from openstack import exceptions


@pytest.fixture
def images(endpoint):
    cloud = openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="none",
        auth={"endpoint": endpoint},
    )
    return cloud.image


def test_every_format_comes_back(images, image, tmp_path):
    # With a checksum given the library compares it with what the service computed.
    created = images.create_image(
        "debian", filename=str(image.path), disk_format=image.disk_format,
        container_format="bare", validate_checksum=True, os_distro="debian",
    )  # fmt: skip
    shown = images.get_image(created.id)
    assert shown.status == "active"
    assert (shown.size, shown.virtual_size) == (image.size, image.virtual_size)
    assert (shown.checksum, shown.hash_value) == (image.md5, image.sha512)
    assert shown.os_distro == "debian"
    saved = tmp_path / "saved"
    # It verifies the hash.
    images.download_image(created, output=str(saved))
    assert saved.stat().st_size == image.size
    received = hashlib.sha512()
    for block in images.download_image(created, stream=True).iter_content(1 << 20):
        received.update(block)
    assert received.hexdigest() == image.sha512
    images.delete_image(created, ignore_missing=False)
    assert images.find_image(created.id) is None


def test_records(images):
    one = images.create_image("sdk", disk_format="raw", container_format="bare", data=b"bytes", tags=["x"])
    assert images.find_image("sdk").id == one.id
    images.update_image(one, name="renamed", min_ram=64, hw_disk_bus="virtio")
    images.add_tag(one, "y")
    images.remove_tag(one, "x")
    shown = images.get_image(one.id)
    assert (shown.name, shown.min_ram, shown.hw_disk_bus) == ("renamed", 64, "virtio")
    assert shown.tags == ["y"]
    assert [each.id for each in images.images(name="renamed")] == [one.id]
    images.deactivate_image(one)
    assert images.get_image(one.id).status == "deactivated"
    images.reactivate_image(one)
    images.update_image(images.get_image(one.id), is_protected=True)
    with pytest.raises(exceptions.ForbiddenException):
        images.delete_image(one)
    images.update_image(images.get_image(one.id), is_protected=False)
    images.delete_image(one, ignore_missing=False)
    with pytest.raises(exceptions.NotFoundException):
        images.get_image(one.id)


def test_pages(images):
    made = [images.create_image("paged", allow_duplicates=True) for _ in range(5)]
    listed = list(images.images(name="paged", limit=2))
    assert [each.id for each in listed] == [each.id for each in reversed(made)]
    for each in made:
        images.delete_image(each)
