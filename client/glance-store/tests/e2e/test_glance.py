"""What users of a Glance notice of its store, and what the sites have then."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from vitrail_site import wait


def md5(data):
    return hashlib.md5(data).hexdigest()


def pieces(data, start=0, size=500_000):
    """Yield data in pieces of a size that Glance's server takes."""
    for first in range(start, len(data), size):
        yield data[first : first + size]


def test_an_upload_is_active_and_comes_back(glance, image, data):
    shown = glance.show(image)
    assert (shown["status"], shown["stores"], shown["size"]) == ("active", "north", len(data))
    assert (shown["checksum"], shown["os_hash_value"]) == (md5(data), hashlib.sha512(data).hexdigest())
    answer = glance.download(image)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["Content-MD5"] == md5(data)


def test_an_upload_of_unknown_length(glance, data):
    image = glance.create()
    assert glance.upload(image, pieces(data, size=70_000)).status_code == 204
    assert glance.download(image).content == data


def test_an_empty_image(glance):
    image = glance.create()
    assert glance.upload(image, b"").status_code == 204
    assert glance.show(image)["size"] == 0
    assert glance.download(image).content == b""


@pytest.mark.parametrize("span", ["0-0", "0-99", "100-4999999", "6000000-", "-100", "4999990-5000010", "0-99999999"])
def test_ranges(glance, image, data, span):
    first, last = re.fullmatch(r"(\d*)-(\d*)", span).groups()
    part = data[int(first) : int(last) + 1 if last else None] if first else data[-int(last) :]
    answer = glance.download(image, Range=f"bytes={span}")
    assert answer.status_code == 206
    assert answer.content == part
    assert answer.headers["Content-Range"].endswith(f"/{len(data)}")


def test_the_other_site_has_it(glance, south, image, data):
    """What the mesh is for: the data of a central Glance, read where it is needed."""
    object_id = glance.object(image)
    wait("south knows the object", lambda: any(o["id"] == object_id for o in south(status="active")))
    received, checksum = south.read(object_id)
    assert received == data
    assert checksum == md5(data) == glance.show(image)["checksum"]


def test_objects_are_in_no_users_list(glance, keystone, north, image):
    object_id = glance.object(image)
    [stored] = north(name=image)
    assert (stored["id"], stored["visibility"], stored["glance_store"]) == (object_id, "private", "north")
    assert stored["owner"] == keystone.project_id("service")
    for persona, hidden in (("member", "true"), ("other", "true"), ("admin", "false")):
        headers = {"X-Auth-Token": keystone.token(persona)}
        listed = requests.get(f"{north.site.url}/v2/images", params={"os_hidden": hidden}, headers=headers, timeout=30)
        assert listed.json()["images"] == []
    headers = {"X-Auth-Token": keystone.token("member")}
    assert requests.get(f"{north.site.url}/v2/images/{object_id}/file", headers=headers, timeout=30).status_code == 404


def test_a_deleted_image_is_gone_everywhere(glance, north, south, image):
    object_id = glance.object(image)
    assert glance("DELETE", f"/images/{image}").status_code == 204
    assert object_id not in {o["id"] for o in north()}
    wait("south forgets the object", lambda: object_id not in {o["id"] for o in south()})
    assert glance.download(image).status_code == 404


def test_an_import_to_both_sites(glance, north, south, data):
    image = glance.create()
    headers = {"Content-Type": "application/octet-stream"}
    assert glance("PUT", f"/images/{image}/stage", data=data, headers=headers).status_code == 204
    glance.run_import(image, "glance-direct", "north", "south")
    shown = glance.show(image)
    assert (shown["status"], shown["stores"]) == ("active", "north,south")
    for objects in (north, south):
        assert objects.read(glance.object(image, objects.site.name))[0] == data


def test_many_download_at_once(glance, image, data):
    with ThreadPoolExecutor(6) as threads:
        answers = threads.map(lambda _: glance.download(image).content == data, range(12))
        assert all(answers)


def test_an_image_that_is_deleted_while_it_is_uploaded(glance, north, data):
    image = glance.create()

    def interrupted():
        for count, piece in enumerate(pieces(data)):
            if count == 12:
                wait("the upload has begun", lambda: north(name=image, status="saving"))
                assert glance("DELETE", f"/images/{image}").status_code == 204
            yield piece

    assert glance.upload(image, interrupted()).status_code == 410
    assert north(name=image) == []


def test_a_copy_to_the_files_and_back(glance, north, image, data):
    glance.run_import(image, "copy-image", "files")
    assert glance.show(image)["stores"] == "north,files"
    assert glance("DELETE", f"/stores/north/{image}").status_code == 204
    assert north(name=image) == []
    assert glance.download(image).content == data
    glance.run_import(image, "copy-image", "north")
    assert glance.show(image)["stores"] == "files,north"
    assert glance("DELETE", f"/stores/files/{image}").status_code == 204
    assert glance.download(image).content == data


def test_a_copy_between_two_sites_is_stored_once(glance, north, image, data):
    before = north.pack_bytes()
    glance.run_import(image, "copy-image", "south")
    assert glance.show(image)["stores"] == "north,south"
    objects = {glance.object(image, store) for store in ("north", "south")}
    assert len(objects) == 2
    wait("north knows both objects", lambda: objects <= {o["id"] for o in north(status="active")})
    for object_id in objects:
        assert north.read(object_id)[0] == data
    assert north.pack_bytes() == before
    # Each can be dropped without the other.
    assert glance("DELETE", f"/stores/north/{image}").status_code == 204
    assert glance.download(image).content == data


def test_a_copy_to_other_sites_goes_between_the_sites(glance, north, south, image, data):
    before = north.pack_bytes()
    glance.run_import(image, "copy-image", "everywhere")
    assert glance.show(image)["stores"] == "north,everywhere"
    # South has it before the copy counts as made, and North has stored nothing twice.
    object_id = glance.object(image, "everywhere")
    [receipt] = south.site.operator("/v1/receipts", image=object_id)
    assert receipt["peers"]["north"]["raw"] > 5_000_000
    assert north.pack_bytes() == before
    assert glance("DELETE", f"/stores/north/{image}").status_code == 204
    assert glance.download(image).content == data


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_than_announced_is_refused(glance, north, data, difference):
    image = glance.create()
    size = str(len(data) + difference)
    answer = glance.upload(image, pieces(data), **{"x-openstack-image-size": size})
    assert answer.status_code == 400
    assert glance.show(image)["status"] == "queued"
    assert north(name=image) == []


def test_what_glance_refuses_goes_with_its_image(glance, north, data):
    """Glance judges data after the store has it, and keeps the location of what it refuses."""
    image = glance.create(disk_format="qcow2")
    for _ in range(2):
        assert glance.upload(image, data).status_code == 415
    assert glance.show(image)["status"] == "queued"
    assert glance("DELETE", f"/images/{image}").status_code == 204
    assert north(name=image) == []


def test_what_glance_accepts_is_not_refused(glance):
    """A qcow2 with a backing file, which a site refuses as an image: in such a container Glance inspects nothing."""
    header = bytearray(65536)
    header[:8] = b"QFI\xfb\x00\x00\x00\x03"
    header[8:20] = (0x200).to_bytes(8, "big") + (11).to_bytes(4, "big")
    header[20:32] = (16).to_bytes(4, "big") + (1 << 20).to_bytes(8, "big")
    header[0x200:0x20B] = b"/etc/passwd"
    image = glance.create(disk_format="qcow2", container_format="ova")
    assert glance.upload(image, bytes(header)).status_code == 204
    assert glance.download(image).content == bytes(header)


@pytest.fixture
def broken(north):
    """A site that may be killed."""
    yield north
    north.site.stop()
    north.site.start()


def test_a_site_that_dies_during_an_upload(glance, broken, data):
    image = glance.create()

    def interrupted():
        for count, piece in enumerate(pieces(data)):
            if count == 12:
                wait("the upload has begun", lambda: broken(name=image, status="saving"))
                broken.site.kill()
            yield piece

    assert glance.upload(image, interrupted()).status_code == 503
    assert glance.show(image)["status"] == "queued"
    broken.site.start()
    wait("the site has given the upload up", lambda: broken(name=image, status="queued"))
    assert glance.upload(image, data).status_code == 204
    assert glance.download(image).content == data
    # What was left is gone.
    assert [o["id"] for o in broken(name=image)] == [glance.object(image)]


def test_a_site_that_is_down(glance, broken, image, data):
    broken.site.stop()
    assert glance.download(image).status_code == 503
    assert glance.upload(glance.create(), data).status_code == 503
    assert glance("DELETE", f"/images/{image}").status_code == 503
    broken.site.start()
    assert glance.show(image)["status"] == "active"
    assert glance.download(image).content == data


def test_a_copy_in_another_store_serves_while_a_site_is_down(glance, broken, image, data):
    glance.run_import(image, "copy-image", "files")
    assert glance.show(image)["stores"] == "north,files"
    broken.site.stop()
    assert glance.download(image).content == data


def test_a_location_of_another_kind_is_refused(glance):
    image = glance.create()
    patch = [{"op": "add", "path": "/locations/-", "value": {"url": "vitrail://../../etc", "metadata": {}}}]
    media_type = "application/openstack-images-v2.1-json-patch"
    answer = glance("PATCH", f"/images/{image}", json=patch, headers={"Content-Type": media_type})
    assert answer.status_code == 400
