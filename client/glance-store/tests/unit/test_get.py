"""Downloads: every part, through every kind of broken connection, and never a byte that is wrong or missing."""

import uuid

import pytest
from glance_store import exceptions
from stores import at, section

from glance_store_vitrail.site import Unavailable

OBJECT = str(uuid.uuid4())
DATA = bytes(i * 7 + (i >> 8) & 255 for i in range(1_000_000))


@pytest.fixture(autouse=True)
def stored(site):
    site.add(OBJECT, DATA)


@pytest.fixture
def location(store):
    return at(store, OBJECT)


def read(store, location, **part):
    data, length = store.get(location, **part)
    received = b"".join(data)
    assert len(received) == length
    return received


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (0, 1), (0, 300_000), (999_999, None), (999_999, 5), (5, 999_995), (123_456, 654_321), (7, 0)],
)
def test_parts(store, location, offset, length):
    end = None if length is None else offset + length
    assert read(store, location, offset=offset, chunk_size=length) == DATA[offset:end]


def test_an_empty_object(store, site):
    site.add(OBJECT, b"")
    assert read(store, at(store, OBJECT)) == b""


@pytest.mark.parametrize("part", [{}, {"offset": 10, "chunk_size": 900_000}])
def test_a_broken_download_goes_on_where_it_ended(store, site, location, part):
    for cut_after in (300_000, 0, 270_000):
        site.fault("GET", "/file", cut_after=cut_after)
    start = part.get("offset", 0)
    assert read(store, location, **part) == DATA[start : start + part.get("chunk_size", len(DATA))]
    # Nothing is fetched again but the block that was under way.
    assert len(site.asked("GET")) == 4


def test_failures_in_a_row_are_limited(store, site, location):
    site.fault("GET", "/file", cut_after=600_000)
    for _ in range(4):
        site.fault("GET", "/file", cut_after=0)
    data, _ = store.get(location)
    received = b""
    with pytest.raises(Unavailable):
        for piece in data:
            received += piece
    assert DATA.startswith(received)
    assert len(received) < len(DATA)


def test_failures_with_bytes_between_them_are_not(store, site, location):
    for _ in range(3):
        for _ in range(3):
            site.fault("GET", "/file", cut_after=0)
        site.fault("GET", "/file", cut_after=262_144)
    assert read(store, location) == DATA


def test_pauses_grow(store, site, location, no_pauses):
    for _ in range(3):
        site.fault("GET", "/file", status=503)
    assert read(store, location) == DATA
    assert no_pauses == [0.5, 1, 2]


def test_another_endpoint_takes_over(configured, site):
    store = configured(section("http://localhost:1", site.url))
    site.fault("GET", "/file", cut_after=500_000)
    assert read(store, at(store, OBJECT)) == DATA


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 11-20/1000000"},
        {"Content-Range": "bytes 10-18/1000000"},
        {"Content-Range": "bytes 10-30/1000000"},
        {"Content-Range": "bytes 10-19/*"},
        {"Content-Range": None},
    ],
)
def test_another_part_than_asked_for_is_not_believed(store, site, location, headers):
    site.fault("GET", "/file", headers=headers)
    assert read(store, location, offset=10, chunk_size=10) == DATA[10:20]
    assert len(site.asked("GET")) == 2


def test_an_answer_of_unknown_length_is_not_believed(store, site, location):
    site.fault("GET", "/file", headers={"Content-Length": None}, cut_after=0)
    assert read(store, location) == DATA
    assert len(site.asked("GET")) == 2


def test_all_is_no_answer_to_a_request_for_a_part(store, site, location):
    site.fault("GET", "/file", status=200, headers={"Content-Range": None}, cut_after=1)
    with pytest.raises(exceptions.BackendException):
        store.get(location, offset=10)


def test_bytes_that_were_not_asked_for_are_not_handed_on(store, site, location):
    site.fault("GET", "/file", headers={"Content-Length": "14"}, more=b"more")
    assert read(store, location, offset=10, chunk_size=10) == DATA[10:20]


def test_answers_without_data_are_limited(store, site, location):
    for _ in range(4):
        site.fault("GET", "/file", headers={"Content-Length": "0"}, cut_after=0)
    with pytest.raises(Unavailable):
        store.get(location, offset=10)


def test_an_object_that_is_not_there_is_not_found_before_iterating(store):
    with pytest.raises(exceptions.NotFound):
        store.get(at(store, str(uuid.uuid4())))


def test_an_object_without_data_is_not_found(store, site):
    site.add(OBJECT, None)
    site.data.clear()
    with pytest.raises(exceptions.NotFound):
        store.get(at(store, OBJECT))
    with pytest.raises(exceptions.NotFound):
        store.get_size(at(store, OBJECT))


def test_a_site_that_is_gone_is_unavailable(store, site, location):
    site.stop()
    with pytest.raises(exceptions.RemoteServiceUnavailable):  # Glance answers 503 to this
        store.get(location)


def test_refused_credentials_are_forbidden(store, site, location):
    site.token = "secret"
    with pytest.raises(exceptions.Forbidden):
        store.get(location)


def test_size(store, site, location):
    site.fault("GET", drop="before")
    assert store.get_size(location) == len(DATA)
