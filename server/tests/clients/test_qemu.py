"""qemu-img, straight from the URL of an image: it asks for ranges."""

import json
import uuid

import pytest
from conftest import digests
from glanceclient.v2.client import Client


@pytest.fixture
def url(endpoint, image):
    """Where the bytes of an uploaded sample are."""
    glance = Client(endpoint, token="anything")
    id = str(uuid.uuid4())
    glance.images.create(id=id, disk_format=image.disk_format, container_format="bare")
    with open(image.path, "rb") as file:
        glance.images.upload(id, file)
    yield f"{endpoint}/v2/images/{id}/file"
    glance.images.delete(id)


def test_info(qemu_img, url, image):
    info = json.loads(qemu_img("info", "--output", "json", "-f", image.disk_format, url))
    assert info["virtual-size"] == image.virtual_size
    assert info["format"] == image.disk_format


def test_compare(qemu_img, url, image, samples):
    told = qemu_img("compare", "-f", image.disk_format, "-F", "raw", url, samples["raw"].path)
    assert "Images are identical." in told


def test_convert(qemu_img, url, image, samples, tmp_path):
    disk = tmp_path / "disk.raw"
    # With its default of 8 coroutines qemu-img 7.2 hangs now and then, on any web server's files.
    qemu_img("convert", "-m", 1, "-f", image.disk_format, "-O", "raw", url, disk)
    assert digests(disk) == (samples["raw"].md5, samples["raw"].sha512)
