"""Imports, stores, tasks and the cache through unmodified clients: two sites that are two stores, and a web server."""

import contextlib
import functools
import http.server
import io
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import uuid

import openstack
import pytest
from conftest import digests, sample
from glanceclient import exc
from glanceclient.v2.client import Client

BIN = pathlib.Path(sys.executable).parent
PATIENCE_S = 60


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """URLs of the Image APIs of two sites, `paris` and `lyon`."""
    directory = tmp_path_factory.mktemp("mesh")
    vitrail = os.environ["VITRAIL_BIN"]
    subprocess.run([vitrail, "ca", "init", "--dir", directory], check=True, capture_output=True)
    seed = f"127.0.0.1:{free_udp_port()}"
    with contextlib.ExitStack() as daemons:
        urls = {}
        for name, listen in [("paris", seed), ("lyon", f"127.0.0.1:{free_udp_port()}")]:
            issue = [vitrail, "ca", "issue", name, "--dir", directory]
            subprocess.run(issue, check=True, capture_output=True)
            config = directory / f"{name}.toml"
            config.write_text(CONFIG.format(name=name, dir=directory, listen=listen, seed=seed))
            urls[name] = daemons.enter_context(daemon(config, directory / name))
        wait(lambda: len(Client(urls["paris"], token="x").images.get_stores_info()["stores"]) == 2)
        yield urls


CONFIG = """\
[site]
name = "{name}"
data_dir = "{dir}/{name}"
[api]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[peer]
listen = "{listen}"
seeds = ["{seed}"]
ca = "{dir}/ca.crt"
cert = "{dir}/{name}.crt"
key = "{dir}/{name}.key"
[images]
show_multiple_locations = true
[import]
allow_private = true
allowed_ports = []
"""


@contextlib.contextmanager
def daemon(config, data_dir):
    with open(config.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen([os.environ["VITRAILD_BIN"], "--config", config], stderr=log)
    endpoints = data_dir / "endpoints.json"
    try:
        wait(lambda: endpoints.exists() or process.poll() is not None)
        assert process.poll() is None, config.with_suffix(".log").read_text()
        yield json.loads(endpoints.read_text())["api"]
    finally:
        process.terminate()
        assert process.wait(60) == 0


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(condition):
    """Returns what `condition` returns as soon as that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def image(tmp_path):
    """An image like no other: what a site has of another image it has of an equal one too."""
    path = tmp_path / "disk.raw"
    path.write_bytes(random.randbytes(2_000_000))
    return sample(path, "raw", 2_000_000)


@pytest.fixture
def web(image):
    """URL of a web server that has the image."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=image.path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def glance(sites):
    return Client(sites["paris"], token="anything")


@pytest.fixture
def lyon(sites):
    return Client(sites["lyon"], token="anything")


def wait_for_stores(client, id, stores):
    """The image once it is in these stores and nothing works on it."""

    def there():
        image = client.images.get(id)
        done = not image.get("os_glance_importing_to_stores")
        return image if image.get("stores") == stores and done else None

    try:
        return wait(there)
    except AssertionError:
        tasks = client.images.get_associated_image_tasks(id)
        raise AssertionError(f"{client.images.get(id)}, {tasks}") from None


def test_glanceclient_stages_imports_and_copies(glance, lyon, image):
    assert "glance-direct" in glance.images.get_import_info()["import-methods"]["value"]
    stores = [store["id"] for store in glance.images.get_stores_info()["stores"]]
    assert stores == ["paris", "lyon"]
    assert glance.images.get_stores_info_detail()["stores"][0]["type"] == "vitrail"

    one = glance.images.create(name="staged", disk_format="raw", container_format="bare")
    with open(image.path, "rb") as file:
        glance.images.stage(one.id, file)
    assert glance.images.get(one.id).status == "uploading"
    glance.images.image_import(one.id, "glance-direct")
    shown = wait_for_stores(glance, one.id, "paris")
    assert (shown.status, shown.checksum, shown.os_hash_value) == ("active", image.md5, image.sha512)
    assert shown.virtual_size == image.virtual_size

    glance.images.image_import(one.id, "copy-image", stores=["lyon"])
    wait_for_stores(glance, one.id, "lyon,paris")
    tasks = glance.images.get_associated_image_tasks(one.id)["tasks"]
    assert [task["status"] for task in tasks] == ["success", "success"]
    assert {task.id for task in glance.tasks.list()} >= {task["id"] for task in tasks}
    with pytest.raises(exc.HTTPBadRequest):
        glance.images.image_import(one.id, "copy-image", stores=["lyon"])
    assert b"".join(lyon.images.data(one.id)) == image.path.read_bytes()

    glance.images.delete_from_store("lyon", one.id)
    assert glance.images.get(one.id).stores == "paris"
    wait_for_stores(lyon, one.id, "paris")
    with pytest.raises(exc.HTTPForbidden):
        glance.images.delete_from_store("paris", one.id)
    locations = glance.images.get(one.id).locations
    assert [each["metadata"] for each in locations] == [{"store": "paris"}]
    glance.images.delete(one.id)


def test_glanceclient_imports_from_the_web(glance, image, web):
    one = glance.images.create(name="web", disk_format="raw", container_format="bare")
    glance.images.image_import(one.id, "web-download", uri=f"{web}/{image.path.name}", all_stores=True)
    shown = wait_for_stores(glance, one.id, "lyon,paris")
    assert (shown.checksum, shown.os_hash_value) == (image.md5, image.sha512)
    glance.images.delete(one.id)

    two = glance.images.create(name="web", disk_format="raw", container_format="bare")
    glance.images.image_import(two.id, "web-download", uri=f"{web}/absent")
    wait(lambda: glance.images.get(two.id).get("os_glance_failed_import") == "paris")
    assert glance.images.get(two.id).status == "queued"
    assert "404" in glance.images.get_associated_image_tasks(two.id)["tasks"][0]["message"]
    with pytest.raises(exc.HTTPBadRequest):
        glance.images.image_import(two.id, "web-download", uri="file:///etc/passwd")

    # Its content is at both sites already.
    glance.images.add_image_location(two.id, f"{web}/{image.path.name}")
    assert wait_for_stores(glance, two.id, "lyon,paris").checksum == image.md5
    glance.images.delete(two.id)

    three = glance.images.create(name="web", disk_format="raw", container_format="bare")
    glance.images.add_location(three.id, f"{web}/{image.path.name}", {})
    assert wait_for_stores(glance, three.id, "lyon,paris").checksum == image.md5
    glance.images.delete(three.id)


def test_glanceclient_fills_and_clears_the_cache(glance, lyon):
    one = glance.images.create(name="cached", disk_format="raw", container_format="bare")
    glance.images.upload(one.id, io.BytesIO(random.randbytes(500_000)))
    active = {"status": "active"}
    wait(lambda: one.id in [each.id for each in lyon.images.list(filters=active)])
    lyon.cache.queue(one.id)
    wait_for_stores(lyon, one.id, "lyon,paris")
    wait(lambda: not lyon.cache.list()["queued_images"])
    assert one.id in [copy["image_id"] for copy in lyon.cache.list()["cached_images"]]
    assert lyon.cache.list_cached_nodes(one.id) == ["lyon", "paris"]
    lyon.cache.delete(one.id)
    wait_for_stores(glance, one.id, "paris")
    lyon.cache.clear("queue")
    lyon.cache.clear("both")
    lyon.cache.clean()
    lyon.cache.prune()
    with pytest.raises(exc.HTTPNotFound):
        lyon.cache.delete(one.id)
    glance.images.delete(one.id)


def command(program, environment, *arguments):
    cleared = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    words = [BIN / program, *map(str, arguments)]
    # What is not a terminal is taken for the image's data.
    terminal, stdin = os.openpty()
    done = subprocess.run(words, env=cleared | environment, capture_output=True, text=True, stdin=stdin)
    os.close(terminal)
    os.close(stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_glance_command(glance, sites, image):
    access = ["--os-image-url", sites["paris"], "--os-auth-token", "anything"]
    run = functools.partial(command, "glance", {}, *access)
    id = str(uuid.uuid4())
    run(
        "image-create-via-import", "--id", id, "--name", "imported", "--file", image.path,
        "--disk-format", "raw", "--container-format", "bare",
    )  # fmt: skip
    wait_for_stores(glance, id, "paris")
    run("image-import", id, "--import-method", "copy-image", "--stores", "lyon")
    wait_for_stores(glance, id, "lyon,paris")
    assert "success" in run("image-tasks", id)
    assert "copy-image" in run("import-info")
    assert "lyon" in run("stores-info")
    assert "api_image_import" in run("task-list")
    run("stores-delete", "--store", "lyon", id)
    wait_for_stores(glance, id, "paris")
    assert "ID" in run("cache-list")
    run("md-namespace-list")
    run("image-delete", id)


def test_the_openstack_command(glance, sites, image, tmp_path):
    access = {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": sites["paris"]}
    run = functools.partial(command, "openstack", access)
    name = f"imported {uuid.uuid4()}"
    made = run(
        "image", "create", name, "--import", "--file", image.path, "--disk-format", "raw",
        "-f", "json",
    )  # fmt: skip
    id = json.loads(made)["id"]
    assert wait_for_stores(glance, id, "paris").checksum == image.md5
    run("image", "import", id, "--method", "copy-image", "--store", "lyon")
    wait_for_stores(glance, id, "lyon,paris")
    assert "lyon" in run("image", "stores", "list")
    assert "success" in run("image", "task", "list")
    assert "copy-image" in run("image", "import", "info")
    run("image", "delete", "--store", "lyon", id)
    wait_for_stores(glance, id, "paris")
    run("cached", "image", "list")
    run("cached", "image", "queue", id)
    run("image", "delete", id)

    staged = json.loads(run("image", "create", name, "--disk-format", "raw", "-f", "json"))["id"]
    run("image", "stage", staged, "--file", image.path)
    run("image", "import", staged, "--all-stores")
    wait_for_stores(glance, staged, "lyon,paris")
    saved = tmp_path / "saved"
    run("image", "save", staged, "--file", saved)
    assert digests(saved) == (image.md5, image.sha512)
    run("image", "delete", staged)


def test_openstacksdk(glance, sites, image, web):
    cloud = openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="none",
        auth={"endpoint": sites["paris"]},
    )
    images = cloud.image
    assert [store.id for store in images.stores()] == ["paris", "lyon"]
    assert len(list(images.stores(details=True))) == 2
    assert "web-download" in images.get_import_info().import_methods["value"]

    # Stages and imports.
    one = images.create_image(
        "sdk", filename=str(image.path), disk_format="raw", container_format="bare",
        use_import=True, wait=True, timeout=PATIENCE_S,
    )  # fmt: skip
    wait_for_stores(glance, one.id, "paris")
    images.import_image(images.get_image(one.id), method="copy-image", stores=["lyon"])
    wait_for_stores(glance, one.id, "lyon,paris")
    assert {task.status for task in images.image_tasks(one.id)} == {"success"}
    assert any(task.type == "api_image_import" for task in images.tasks())
    assert len(list(images.image_locations(one.id))) == 2
    images.delete_image(one.id, store="lyon")
    wait_for_stores(glance, one.id, "paris")
    assert images.get_image_cache().queued_images == []
    images.delete_image(one)

    two = images.create_image("sdk", disk_format="raw", container_format="bare")
    images.import_image(two, method="web-download", uri=f"{web}/{image.path.name}", store="lyon")
    assert wait_for_stores(glance, two.id, "lyon,paris").checksum == image.md5
    images.delete_image(two)

    three = images.create_image("sdk", disk_format="raw", container_format="bare")
    images.add_image_location(three, f"{web}/{image.path.name}")
    assert wait_for_stores(glance, three.id, "lyon,paris").checksum == image.md5
    images.delete_image(three)
