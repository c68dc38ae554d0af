"""One cloud for all tests: a Keystone, a Glance, and two sites of a mesh."""

import pytest
from glance_server import Glance
from keystone_server import Keystone
from vitrail_site import mesh


@pytest.fixture(scope="session")
def keystone(tmp_path_factory):
    with Keystone(tmp_path_factory.mktemp("keystone")) as keystone:
        yield keystone


@pytest.fixture(scope="session")
def glance(keystone, tmp_path_factory):
    with Glance(keystone, tmp_path_factory.mktemp("glance")) as glance:
        yield glance


@pytest.fixture(scope="session")
def sites(keystone, tmp_path_factory):
    """Two sites, the first of which is the catalogue's image service."""
    paris, lyon = mesh(keystone.url, tmp_path_factory.mktemp("sites"), "paris", "lyon")
    keystone.register_image_endpoint(paris.url)
    yield paris, lyon
    lyon.stop()
    paris.stop()


@pytest.fixture(scope="session")
def site(sites):
    return sites[0]
