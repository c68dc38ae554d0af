"""A real Keystone, a real Glance with stores on two real sites, and a file store beside them."""

import random
import sys
from pathlib import Path

import pytest
import requests
import trustme

REPOSITORY = Path(__file__).parents[4]
sys.path.insert(0, str(REPOSITORY / "server/tests/openstack"))

from glance_server import Glance  # noqa: E402
from keystone_server import Keystone  # noqa: E402
from personas import PASSWORD, PERSONAS  # noqa: E402
from vitrail_site import mesh, wait  # noqa: E402

STORES = """
[north]
store_description = The site next to this Glance
vitrail_store_endpoints = {north}
vitrail_store_timeout = 20
vitrail_store_retries = 1
auth_section = site_user

[south]
store_description = A site far away
vitrail_store_endpoints = {south}/v2
vitrail_store_timeout = 20
cafile = {ca}
auth_section = site_user

[everywhere]
store_description = Both sites, written here and fetched there
vitrail_store_endpoints = {north}
vitrail_store_sites = south
auth_section = site_user

[site_user]
auth_type = password
auth_url = {auth_url}
username = {user}
password = {password}
project_name = {project}
user_domain_id = default
project_domain_id = default
"""
OPTIONS = """
enabled_import_methods = [copy-image, glance-direct]
show_multiple_locations = true
"""


@pytest.fixture(scope="session")
def keystone(tmp_path_factory):
    with Keystone(tmp_path_factory.mktemp("keystone")) as served:
        yield served


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Directory of who signed the certificate of south's Image API, and of that."""
    directory = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.crt")
    issued = ca.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(directory / "south.crt")
    issued.private_key_pem.write_to_path(directory / "south.key")
    return directory


@pytest.fixture(scope="session")
def sites(keystone, authority, tmp_path_factory):
    """Two sites, the second of which speaks HTTPS."""
    https = f'tls_cert = "{authority}/south.crt"\ntls_key = "{authority}/south.key"'
    started = mesh(keystone.url, tmp_path_factory.mktemp("mesh"), "north", "south", api={"south": https})
    yield started
    for site in started:
        site.stop()


@pytest.fixture(scope="session")
def north(keystone, sites):
    return Objects(sites[0], keystone.token("service"))


@pytest.fixture(scope="session")
def south(keystone, sites, authority):
    return Objects(sites[1], keystone.token("service"), verify=authority / "ca.crt")


@pytest.fixture(scope="session")
def glance(keystone, sites, authority, tmp_path_factory):
    north, south = sites
    user = PERSONAS["service"]
    server = Glance(
        keystone,
        tmp_path_factory.mktemp("glance"),
        stores={"north": "vitrail", "south": "vitrail", "everywhere": "vitrail", "files": "file"},
        sections=STORES.format(
            north=north.url,
            south=south.url,
            ca=authority / "ca.crt",
            auth_url=keystone.url,
            user=user.user,
            password=PASSWORD,
            project=user.project,
        ),
        options=OPTIONS,
    )
    with server:
        keystone.register_image_endpoint(server.url)
        yield Client(server, keystone.token("admin"))


class Objects:
    """What a site keeps for Glance, as the user sees it who stands in Glance's configuration."""

    def __init__(self, site, token, verify=True):
        self.site = site
        self._request = {"headers": {"X-Auth-Token": token}, "verify": verify, "timeout": 60}

    def __call__(self, **filters):
        """Return the documents of hidden images."""
        params = {"os_hidden": "true"} | filters
        answer = requests.get(f"{self.site.url}/v2/images", params=params, **self._request)
        answer.raise_for_status()
        return answer.json()["images"]

    def read(self, object_id):
        """Return an object's bytes and their MD5 as the site tells it."""
        answer = requests.get(f"{self.site.url}/v2/images/{object_id}/file", **self._request)
        answer.raise_for_status()
        return answer.content, answer.headers["Content-MD5"]

    def pack_bytes(self):
        """Return what the packs of the site's store take."""
        return self.site.operator("/v1/store")["pack_bytes"]


class Client:
    """Requests to Glance as the administrator."""

    def __init__(self, server, token):
        self.server = server
        self.session = requests.Session()
        self.session.headers["X-Auth-Token"] = token

    def __call__(self, method, path, **request):
        """Send a request and return the answer."""
        return self.session.request(method, f"{self.server.url}/v2{path}", timeout=120, **request)

    def create(self, **properties):
        """Create a record and return its id."""
        document = {"disk_format": "raw", "container_format": "bare", "name": "disk"} | properties
        answer = self("POST", "/images", json=document)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def upload(self, image, data, store="north", **headers):
        """Send data and return the answer."""
        headers = {"Content-Type": "application/octet-stream", "x-image-meta-store": store} | headers
        return self("PUT", f"/images/{image}/file", data=data, headers=headers)

    def show(self, image):
        """Return a document."""
        answer = self("GET", f"/images/{image}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def download(self, image, **headers):
        """Return the answer to a download."""
        return self("GET", f"/images/{image}/file", headers=headers)

    def run_import(self, image, method, *stores):
        """Have data brought to stores, and wait until Glance has recorded that; its SQLite takes one writer at once."""
        body = {"method": {"name": method}, "stores": stores}
        answer = self("POST", f"/images/{image}/import", json=body)
        assert answer.status_code == 202, answer.text

        def ended():
            tasks = self("GET", f"/images/{image}/tasks").json()["tasks"]
            if any(task["status"] not in ("success", "failure") for task in tasks):
                return None
            return tasks

        # Asked while an import runs, Glance's list of tasks, which writes, may fail it: "database is locked".
        wait("the import is over", lambda: "os_glance_import_task" not in self.show(image))
        tasks = wait("the import has ended", ended)
        failed = [task["message"] for task in tasks if task["status"] == "failure"]
        assert not failed, f"Glance failed at the import: {failed}"

    def object(self, image, store="north"):
        """Return the id of the object that has an image's data in a store."""
        [url] = [at["url"] for at in self.show(image)["locations"] if at["metadata"]["store"] == store]
        return url.removeprefix("vitrail://")


@pytest.fixture
def data(request):
    """A disk of its own for each test: noise, zeros, and text."""
    noise = random.Random(request.node.name)
    return b"".join([noise.randbytes(5_000_000), bytes(8_000_000), b"dull disk\n" * 200_000, noise.randbytes(100_003)])


@pytest.fixture
def image(glance, data):
    """An active image whose data is in `north`."""
    created = glance.create()
    answer = glance.upload(created, data)
    assert answer.status_code == 204, answer.text
    return created
