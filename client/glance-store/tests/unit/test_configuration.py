"""Options, certificates, credentials, and what glance_store does with the store."""

import io
import ssl
import uuid

import pytest
import trustme
from glance_store import capabilities, exceptions, location
from scripted import ScriptedSite
from stores import at, section

from glance_store_vitrail import options
from glance_store_vitrail.store import StoreLocation

OBJECT = str(uuid.uuid4())


def test_every_option_has_help():
    assert all(option.help for option in options.OPTIONS)


def test_a_single_store_works_too(configured, site):
    store = configured(
        f"""
[glance_store]
stores = vitrail
default_store = vitrail
vitrail_store_endpoints = {site.url}
"""
    )
    uri, *_, metadata = store.add(str(uuid.uuid4()), io.BytesIO(b"data"), 4, "sha512")
    assert metadata == {}
    data, _ = store.get(location.get_location_from_uri(uri, store.conf))
    assert b"".join(data) == b"data"


def test_an_url_may_end_as_in_the_service_catalogue(configured, site):
    site.add(OBJECT, b"data")
    store = configured(section(site.url + "/v2/"))
    assert store.get_size(at(store, OBJECT)) == 4


@pytest.mark.parametrize(
    "text",
    [
        section(),
        section("ftp://site"),
        section("site:9292"),
        section("http://user:secret@site"),
        section("http://site/?x=1"),
        section("http://[::1"),
        section("http://site", options="cafile = /nowhere/ca.crt"),
        section("http://site", options="certfile = /nowhere/client.crt"),
        section("http://site", options="auth_type = none-such"),
        section("http://site", options="auth_type = password"),
    ],
)
def test_a_wrong_configuration_closes_the_store_for_writing(configured, text):
    store = configured(text)
    assert not store.is_capable(capabilities.BitMasks.WRITE_ACCESS)
    with pytest.raises(exceptions.StoreAddDisabled):
        store.add(str(uuid.uuid4()), io.BytesIO(b""), 0, "sha512")


@pytest.mark.parametrize(
    "uri",
    [
        "http://site/image",
        "vitrail://",
        "vitrail://image",
        f"vitrail://{OBJECT}/..",
        "vitrail://ABCDEFAB-CDEF-4ABC-8DEF-ABCDEFABCDEF",
        f"vitrail://{OBJECT}?x",
        f"vitrail://user@{OBJECT}",
        f"vitrail://{{{OBJECT}}}",
    ],
)
def test_only_objects_are_locations(uri):
    with pytest.raises(exceptions.BadStoreUri):
        StoreLocation({}, None).parse_uri(uri)


def test_a_location_and_its_uri_are_inverse():
    parsed = StoreLocation({}, None)
    parsed.parse_uri(f"vitrail://{OBJECT}")
    assert parsed.get_uri() == f"vitrail://{OBJECT}"
    assert StoreLocation({"object_id": OBJECT}, None).get_uri() == f"vitrail://{OBJECT}"


@pytest.fixture
def authority(tmp_path):
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.crt")
    return made


@pytest.fixture
def secure_site(authority):
    """A site that asks for a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    served = ScriptedSite(context)
    served.add(OBJECT, b"data")
    yield served
    served.stop()


def test_a_client_certificate_is_shown(configured, secure_site, authority, tmp_path):
    client = authority.issue_cert("glance.example")
    client.cert_chain_pems[0].write_to_path(tmp_path / "glance.crt")
    client.private_key_pem.write_to_path(tmp_path / "glance.key")
    store = configured(
        section(
            secure_site.url,
            options=f"""
cafile = {tmp_path}/ca.crt
certfile = {tmp_path}/glance.crt
keyfile = {tmp_path}/glance.key
""",
        )
    )
    data, _ = store.get(at(store, OBJECT))
    assert b"".join(data) == b"data"
    assert ("DNS", "glance.example") in secure_site.requests[-1].certificate["subjectAltName"]


def test_a_site_of_another_authority_is_not_believed(configured, secure_site):
    store = configured(section(secure_site.url, options="vitrail_store_retries = 0"))
    with pytest.raises(exceptions.RemoteServiceUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        store.get_size(at(store, OBJECT))
    assert secure_site.requests == []


CREDENTIALS = "auth_type = admin_token\ntoken = secret\nendpoint = http://unused"


@pytest.mark.parametrize("options", [CREDENTIALS, f"auth_section = user\n[user]\n{CREDENTIALS}"])
def test_a_token_is_sent(configured, site, options):
    site.add(OBJECT, b"data")
    site.token = "secret"
    store = configured(section(site.url, options=options))
    assert store.get_size(at(store, OBJECT)) == 4
