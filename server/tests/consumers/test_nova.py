"""nova.image.glance and nova.virt.images, as shipped: every call that Nova makes to its image service."""

import io
import os
import uuid

import pytest
from glanceclient import exc
from nova import exception
from nova.image import glance
from nova.virt import images
from vitrail_site import wait

API = glance.API()


def snapshot(context, disk, disk_format="raw", **meta):
    """Store a disk as Nova stores a snapshot, and return its id."""
    info = {
        "name": "snapshot",
        "is_public": False,
        "disk_format": disk_format,
        "container_format": "bare",
        "properties": {},
    }
    with open(disk, "rb") as file:
        return API.create(context, info | meta, file)["id"]


def fetched(context, image, path):
    API.download(context, image, dest_path=path)
    return path.read_bytes()


@pytest.fixture
def image(member, disks):
    return snapshot(member, disks["raw"])


def test_a_snapshot_is_stored_and_described(member, disks):
    info = {
        "name": "snapshot",
        "is_public": False,
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": 1,
        "min_ram": "512",
        "properties": {
            "base_image_ref": str(uuid.uuid4()),
            "block_device_mapping": [{"boot_index": 0}],
            "hw_disk_bus": "virtio",
            "image_location": "snapshot",
            "kernel_id": "None",
        },
    }
    with open(disks["qcow2"], "rb") as file:
        created = API.create(member, info, file)
    shown = API.get(member, created["id"])
    assert shown == created
    assert (shown["status"], shown["size"]) == ("active", disks["qcow2"].stat().st_size)
    assert (shown["min_disk"], shown["min_ram"], shown["is_public"]) == (1, 512, False)
    assert shown["owner"] == member.project_id
    assert shown["properties"]["block_device_mapping"] == [{"boot_index": 0}]
    assert shown["properties"]["hw_disk_bus"] == "virtio"
    assert shown["created_at"] <= shown["updated_at"]


def test_a_volume_backed_snapshot_has_no_data(member):
    created = API.create(member, {"name": "volume", "size": 0, "properties": {}})
    shown = API.get(member, created["id"])
    assert (shown["status"], shown["size"], shown["disk_format"]) == ("active", 0, "raw")


def test_data_may_be_a_stream(member):
    info = {"name": "stream", "disk_format": "raw", "container_format": "bare", "properties": {}}
    created = API.create(member, info, io.BytesIO(b"x" * 3_000_000))
    assert API.get(member, created["id"])["size"] == 3_000_000


def test_the_default_disk_format_comes_from_the_schema(member):
    assert glance.GlanceImageServiceV2()._get_image_create_disk_format_default(member) == "qcow2"


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_download_to_a_path(member, disks, disk_format, tmp_path):
    image = snapshot(member, disks[disk_format], disk_format)
    assert fetched(member, image, tmp_path / "disk") == disks[disk_format].read_bytes()


def test_a_download_to_a_file(member, disks, image, tmp_path):
    with open(tmp_path / "disk", "w+b") as file:
        API.download(member, image, data=file)
    assert (tmp_path / "disk").read_bytes() == disks["raw"].read_bytes()


def test_a_download_as_an_iterator(member, disks, image):
    assert b"".join(API.download(member, image)) == disks["raw"].read_bytes()


def test_an_image_without_data_is_not_acceptable(member, tmp_path):
    info = {"name": "none", "disk_format": "raw", "container_format": "bare", "properties": {}}
    created = API.create(member, info)
    with pytest.raises(exception.ImageUnacceptable):
        API.download(member, created["id"], dest_path=tmp_path / "disk")


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_what_a_hypervisor_boots_is_raw(member, disks, disk_format, tmp_path):
    """Nova inspects what it has fetched, and has qemu-img convert it."""
    image = snapshot(member, disks[disk_format], disk_format)
    images.fetch_to_raw(member, image, str(tmp_path / "disk"))
    assert (tmp_path / "disk").read_bytes() == disks["raw"].read_bytes()
    assert os.listdir(tmp_path) == ["disk"]


def test_lists(member, disks):
    word = uuid.uuid4().hex
    made = [snapshot(member, disks["raw"], name=f"{word}-{n}", properties={"word": word, "n": n}) for n in range(3)]
    found = API.get_all(member, filters={"property-word": word}, sort_key="name", sort_dir="asc")
    assert [one["id"] for one in found] == made
    page = API.get_all(member, filters={"property-word": word}, sort_key="name", sort_dir="asc", page_size=1)
    assert [one["id"] for one in page] == made
    rest = API.get_all(member, filters={"property-word": word}, sort_key="name", sort_dir="asc", marker=made[0])
    assert [one["id"] for one in rest] == made[1:]
    [one] = API.get_all(member, filters={"name": f"{word}-1", "status": "active"})
    assert one["id"] == made[1]
    assert API.get_all(member, filters={"property-word": word, "changes-since": "2100-01-01T00:00:00Z"}) == []


def test_an_update_replaces_or_purges_properties(member, disks):
    image = snapshot(member, disks["raw"], properties={"old": "1", "kept": "2"})
    changed = API.update(member, image, {"name": "renamed", "properties": {"kept": "3", "new": "4"}})
    assert (changed["name"], changed["properties"]) == ("renamed", {"old": "1", "kept": "3", "new": "4"})
    purged = API.update(member, image, {"properties": {"new": "5"}}, purge_props=True)
    assert purged["properties"] == {"new": "5"}
    assert API.get(member, image) == purged


def test_an_update_may_bring_the_data(member, disks):
    info = {"name": "later", "disk_format": "raw", "container_format": "bare", "properties": {}}
    image = API.create(member, info)["id"]
    with open(disks["raw"], "rb") as file:
        changed = API.update(member, image, {"properties": {}}, data=file)
    assert changed["status"] == "active"


def test_a_deleted_image_is_not_found(member, image, tmp_path):
    assert API.delete(member, image)
    for call in (API.get, API.delete, API.download):
        with pytest.raises(exception.ImageNotFound):
            call(member, image)
    with pytest.raises(exception.ImageNotFound):
        API.update(member, image, {"properties": {}})


def test_a_protected_image_is_not_deleted(member, disks):
    image = snapshot(member, disks["raw"], protected=True)
    with pytest.raises(exception.ImageNotAuthorized):
        API.delete(member, image)


def test_others_do_not_find_it(acting, image):
    other = acting("other")
    for call in (API.get, API.delete, API.download):
        with pytest.raises(exception.ImageNotFound):
            call(other, image)


def test_readers_see_it_and_may_not_have_it(acting, image):
    reader = acting("reader")
    assert API.get(reader, image)["id"] == image
    for call in (API.download, API.delete):
        with pytest.raises(exception.ImageNotAuthorized):
            call(reader, image)


def test_a_snapshot_by_the_administrator_is_shared_with_the_owner_of_the_instance(acting, disks, keystone):
    admin, member = acting("admin"), acting("member")
    shared = {"visibility": "shared", "properties": {"instance_owner": member.project_id}}
    info = {"name": "shelved", "disk_format": "raw", "container_format": "bare"} | shared
    with open(disks["raw"], "rb") as file:
        image = API.create(admin, info, file)["id"]
    assert API.get(member, image)["owner"] == admin.project_id
    assert b"".join(API.download(member, image)) == disks["raw"].read_bytes()


def test_a_token_that_is_none_is_not_authorized(member, image):
    member = member.from_dict(member.to_dict())
    member.auth_token = "expired"
    with pytest.raises(exception.ImageNotAuthorized):
        API.get(member, image)


def test_data_that_is_not_what_it_claims_is_refused(member, disks):
    with pytest.raises(exc.HTTPException, match="does not match"):
        snapshot(member, disks["raw"], "qcow2")


def test_a_copy_to_another_store_brings_it_to_that_site(acting, image, disks, sites, api_servers):
    """What Nova asks for before it boots from a store next to the hypervisor."""
    admin = acting("admin")
    API.copy_image_to_store(admin, image, "south")
    wait("south has it", lambda: "south" in API.get(admin, image)["stores"].split(","))
    with pytest.raises(exception.ImageBadRequest):
        API.copy_image_to_store(admin, image, "south")
    with pytest.raises(exception.ImageNotAuthorized):
        API.copy_image_to_store(acting("member"), image, "south")
    api_servers(sites[1].url)
    assert b"".join(API.download(acting("member"), image)) == disks["raw"].read_bytes()


@pytest.fixture
def api_servers(configured):
    """Set the endpoints that Nova takes in turns."""

    def use(*urls):
        configured.set_override("api_servers", list(urls), "glance")

    before = configured.glance.api_servers
    yield use
    configured.set_override("api_servers", before, "glance")


def test_the_next_server_answers_when_one_is_gone(member, image, site, api_servers):
    api_servers("http://127.0.0.1:1", site.url)
    for _ in range(2):
        assert API.get(member, image)["id"] == image


def test_a_site_that_is_gone_is_told_apart_from_a_lost_image(member, image, site, configured):
    configured.set_override("num_retries", 0, "glance")
    site.stop()
    try:
        with pytest.raises(exception.GlanceConnectionFailed):
            API.get(member, image)
    finally:
        site.start()
    assert API.get(member, image)["id"] == image
