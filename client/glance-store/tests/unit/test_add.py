"""Uploads: what is stored, what is returned, and that failures leave nothing."""

import hashlib
import io
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from glance_store import exceptions
from keystoneauth1.plugin import BaseAuthPlugin
from stores import at, section

from glance_store_vitrail import options
from glance_store_vitrail.site import Unavailable

IMAGE = str(uuid.uuid4())
DATA = bytes(range(256)) * 40_000  # 10 MB: more than two blocks


class Trickle(io.BytesIO):
    """Data of a client that fails after some of it."""

    def __init__(self, data, error):
        super().__init__(data)
        self.error = error

    def read(self, size):
        data = super().read(min(size, 1_000_000))
        if not data:
            raise self.error
        return data


def add(store, data=DATA, size=0, **more):
    file = data if hasattr(data, "read") else io.BytesIO(data)
    return store.add(IMAGE, file, size, "sha512", **more)


def only_object(site):
    [document] = site.objects.values()
    return document


@pytest.mark.parametrize("size", [0, len(DATA)])
def test_data_is_stored_and_described(store, site, size):
    uri, written, md5, multihash, metadata = add(store, size=size)
    document = only_object(site)
    assert uri == f"vitrail://{document['id']}"
    assert document["id"] != IMAGE
    assert (written, md5) == (len(DATA), hashlib.md5(DATA).hexdigest())
    assert multihash == hashlib.sha512(DATA).hexdigest()
    assert metadata == {"store": "mesh"}
    assert site.data[document["id"]] == DATA
    assert (document["name"], document["glance_store"]) == (IMAGE, "mesh")
    assert (document["visibility"], document["os_hidden"]) == ("private", True)


def test_threads_share_a_store(store):
    def there_and_back(number):
        mine = DATA[number:]
        uri, *_ = store.add(str(uuid.uuid4()), io.BytesIO(mine), len(mine), "sha512")
        data, _ = store.get(at(store, uri.removeprefix("vitrail://")))
        return b"".join(data) == mine

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(there_and_back, range(32)))


def test_an_empty_image_is_stored(store, site):
    _, written, md5, _, _ = add(store, b"")
    assert (written, md5) == (0, hashlib.md5(b"").hexdigest())
    assert site.data == {only_object(site)["id"]: b""}


def test_another_hash_is_computed_when_asked_for(store):
    _, _, _, multihash, _ = store.add(IMAGE, io.BytesIO(DATA), 0, "sha3_256")
    assert multihash == hashlib.sha3_256(DATA).hexdigest()


def test_the_verifier_sees_every_byte(store):
    seen = hashlib.sha256()
    add(store, verifier=seen)
    assert seen.digest() == hashlib.sha256(DATA).digest()


def test_callers_that_know_of_no_multihash_get_four_values(store):
    _, *described = store.add(IMAGE, io.BytesIO(DATA), 0)
    assert described == [len(DATA), hashlib.md5(DATA).hexdigest(), {"store": "mesh"}]


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_another_size_than_announced_is_refused(store, site, size):
    with pytest.raises(exceptions.Invalid):
        add(store, size=size)
    assert site.objects == {}


@pytest.mark.parametrize("error", [ValueError("inspected"), OSError("client gone"), TimeoutError("client slow")])
def test_an_error_of_the_data_is_passed_on_and_nothing_remains(store, site, error):
    with pytest.raises(type(error)) as caught:
        add(store, Trickle(DATA, error))
    assert caught.value is error
    assert site.objects == {}


def test_data_is_sent_once_even_if_that_fails(store, site):
    site.fault("PUT", "/file", drop="before")
    with pytest.raises(Unavailable):
        add(store)
    assert len(site.asked("PUT")) == 1
    assert site.objects == {}


def test_a_site_that_cannot_now_is_unavailable(store, site):
    site.fault("PUT", "/file", status=503)
    with pytest.raises(exceptions.TimeoutError):  # Glance answers 503 to this
        add(store)
    assert site.objects == {}


def test_a_full_site_is_full(store, site):
    site.size_max = len(DATA) - 1
    with pytest.raises(exceptions.StorageFull):
        add(store)
    assert site.objects == {}


def test_any_other_refusal_is_an_error_that_says_why(store, site):
    site.fault("PUT", "/file", status=415, body=b"not a disk")
    with pytest.raises(exceptions.BackendException, match="not a disk"):
        add(store)
    assert site.objects == {}


def test_a_lost_answer_is_no_lost_upload(store, site):
    site.fault("POST", drop="after")
    site.fault("PUT", "/file", drop="after")
    uri, written, *_ = add(store)
    assert written == len(DATA)
    assert uri == f"vitrail://{only_object(site)['id']}"


def test_data_that_arrived_otherwise_is_refused(store, site, monkeypatch):
    activate = site.activate
    monkeypatch.setattr(site, "activate", lambda object_id, data: activate(object_id, data[:-1] + b"?"))
    with pytest.raises(exceptions.BackendException, match="what was sent"):
        add(store)
    assert site.objects == {}


def test_an_object_deleted_meanwhile_is_not_stored(store, site):
    site.fault("PUT", "/file", status=404)
    with pytest.raises(exceptions.NotFound):
        add(store)


def test_refused_credentials_deny_writing(store, site):
    site.token = "secret"
    with pytest.raises(exceptions.StorageWriteDenied):
        add(store)


class Renewable(BaseAuthPlugin):
    """A token that could be had anew."""

    def get_token(self, *_):
        return "token"

    def invalidate(self):
        return True


def test_data_is_not_sent_again_with_a_new_token(configured, site, monkeypatch):
    monkeypatch.setattr(options.loading, "load_auth_from_conf_options", lambda *_: Renewable())
    store = configured(section(site.url))
    site.fault("PUT", "/file", status=401)
    with pytest.raises(exceptions.StorageWriteDenied):
        add(store)
    assert len(site.asked("PUT")) == 1
    # Anything else may be asked again.
    site.fault("POST", status=401)
    add(store)


def test_what_a_broken_upload_left_is_replaced(store, site):
    ours = {"name": IMAGE, "os_hidden": True, "glance_store": "mesh"}
    site.add("11111111-1111-4111-8111-111111111111", None, **ours)
    # With data, of another store, of another image: none of this store's business.
    site.add("22222222-2222-4222-8222-222222222222", b"data", **ours)
    site.add("33333333-3333-4333-8333-333333333333", None, **ours | {"glance_store": "other"})
    site.add("44444444-4444-4444-8444-444444444444", None, **ours | {"name": str(uuid.uuid4())})
    uri, *_ = add(store)
    assert sorted(object_id[0] for object_id in site.objects if not uri.endswith(object_id)) == ["2", "3", "4"]


def test_what_cannot_be_removed_is_removed_by_the_next_upload(store, site):
    site.fault("PUT", "/file", drop="before")
    for _ in range(4):
        site.fault("DELETE", status=500)
    with pytest.raises(Unavailable):
        add(store)
    left = only_object(site)["id"]
    uri, *_ = add(store)
    assert uri != f"vitrail://{left}"
    assert f"vitrail://{only_object(site)['id']}" == uri


def test_the_next_endpoint_serves_when_one_is_gone(configured, site):
    store = configured(section("http://localhost:1", site.url))
    _, written, *_ = add(store)
    assert written == len(DATA)
    # The data went to where the object was created, and nowhere else first.
    assert len(site.asked("PUT")) == 1


def test_a_site_that_is_gone_fails_before_anything_is_read(configured):
    store = configured(section("http://localhost:1", options="vitrail_store_retries = 1"))
    data = io.BytesIO(DATA)
    with pytest.raises(Unavailable):
        add(store, data)
    assert data.tell() == 0
