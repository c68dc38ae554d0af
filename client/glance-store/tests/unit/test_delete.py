"""Deleting."""

import uuid

import pytest
from glance_store import exceptions
from stores import at

OBJECT = str(uuid.uuid4())


@pytest.fixture(autouse=True)
def stored(site):
    site.add(OBJECT, b"data")


def test_an_object_is_gone(store, site):
    store.delete(at(store, OBJECT))
    assert site.objects == {}


def test_an_object_that_is_not_there_is_not_found(store):
    with pytest.raises(exceptions.NotFound):
        store.delete(at(store, str(uuid.uuid4())))


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_is_asked_for_again(store, site, drop):
    site.fault("DELETE", drop=drop)
    store.delete(at(store, OBJECT))
    assert site.objects == {}


@pytest.mark.parametrize(
    ("status", "error"),
    [(409, exceptions.InUseByStore), (403, exceptions.Forbidden), (400, exceptions.BackendException)],
)
def test_a_refusal_says_so(store, site, status, error):
    site.fault("DELETE", status=status)
    with pytest.raises(error):
        store.delete(at(store, OBJECT))
    assert OBJECT in site.objects
