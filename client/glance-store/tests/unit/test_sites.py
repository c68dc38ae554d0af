"""Images that have to be at several sites."""

import io
import uuid

import pytest
from glance_store import exceptions
from stores import section

from glance_store_vitrail.site import Unavailable


@pytest.fixture
def store(configured, site):
    return configured(section(site.url, options="vitrail_store_sites = here, far, farther"))


def add(store):
    return store.add(str(uuid.uuid4()), io.BytesIO(b"data"), 4, "sha512")


def test_an_image_is_stored_when_all_sites_have_it(store, site):
    site.copying = [{}, {"stores": "here,far"}, {"stores": "here,far,farther"}]
    add(store)
    [document] = site.objects.values()
    assert document["os_glance_importing_to_stores"] == "far,farther"
    assert site.copying == []


def test_a_lost_answer_is_no_lost_copy(store, site):
    site.fault("POST", "/import", drop="after")
    site.copying = [{"stores": "here,far,farther"}]
    add(store)
    assert len(site.objects) == 1


def test_a_copy_that_fails_leaves_nothing(store, site):
    site.copying = [{"stores": "here,far", "os_glance_failed_import": "farther"}]
    with pytest.raises(Unavailable, match="farther"):
        add(store)
    assert site.objects == {}


def test_a_refused_copy_leaves_nothing(store, site):
    site.fault("POST", "/import", status=409, body=b"no such store")
    with pytest.raises(exceptions.BackendException, match="no such store"):
        add(store)
    assert site.objects == {}


def test_a_copy_has_its_time(configured, site):
    options = "vitrail_store_sites = far\nvitrail_store_copy_timeout = 1"
    store = configured(section(site.url, options=options))
    with pytest.raises(Unavailable, match="after 1 seconds"):
        add(store)
    assert site.objects == {}


def test_sites_that_have_it_are_not_asked(configured, site):
    store = configured(section(site.url, options="vitrail_store_sites = here"))
    add(store)
    assert not any(path.endswith("/import") for path in site.asked("POST"))
