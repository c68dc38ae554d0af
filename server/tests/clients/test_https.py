"""The same clients, where the Image API speaks HTTPS with a certificate of an authority that they are told of."""

import datetime
import ipaddress
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import daemon, digests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from glanceclient import exc
from glanceclient.v2.client import Client


@dataclass(frozen=True)
class Secure:
    """A site, and the file that says whom to believe."""

    url: str
    ca: Path


@pytest.fixture(scope="module", autouse=True)
def no_other_authorities():
    """requests takes these instead of the authority that a client names."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    directory = tmp_path_factory.mktemp("https")
    key = ec.generate_private_key(ec.SECP256R1())
    (directory / "site.crt").write_bytes(certificate(key))
    (directory / "site.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    config = directory / "site.toml"
    config.write_text(
        f"""
[api]
tls_cert = "{directory}/site.crt"
tls_key = "{directory}/site.key"
"""
    )
    with daemon(directory, "--config", config) as url:
        assert url.startswith("https://")
        yield Secure(url, directory / "site.crt")


def certificate(key):
    """A certificate for loopback that is its own authority."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def stored(secure, image):
    """Id of an uploaded sample."""
    glance = Client(secure.url, token="anything", cacert=str(secure.ca))
    id = str(uuid.uuid4())
    glance.images.create(id=id, disk_format=image.disk_format, container_format="bare")
    with open(image.path, "rb") as file:
        glance.images.upload(id, file)
    yield id
    glance.images.delete(id)


def test_glanceclient_gets_what_it_sent(secure, stored, image):
    glance = Client(secure.url, token="anything", cacert=str(secure.ca))
    assert b"".join(glance.images.data(stored)) == image.path.read_bytes()


def test_glanceclient_believes_nobody_unasked(secure):
    with pytest.raises(exc.CommunicationError):
        list(Client(secure.url, token="anything").images.list())


def test_openstack_command(secure, stored, image, tmp_path):
    command = [Path(sys.executable).with_name("openstack"), "--os-auth-type", "none"]
    command += ["--os-endpoint", secure.url, "--os-cacert", secure.ca]
    command += ["image", "save", "--file", tmp_path / "disk", stored]
    subprocess.run(command, check=True, timeout=300)
    assert digests(tmp_path / "disk") == (image.md5, image.sha512)


def test_qemu_img(secure, qemu_img, stored, image, samples, tmp_path):
    # It believes the authorities of the system and has no option for another.
    source = {
        "driver": image.disk_format,
        "file": {
            "driver": "https",
            "url": f"{secure.url}/v2/images/{stored}/file",
            "sslverify": False,
        },
    }
    source = "json:" + json.dumps(source)
    told = json.loads(qemu_img("info", "--output", "json", source))
    assert told["virtual-size"] == image.virtual_size
    disk = tmp_path / "disk.raw"
    qemu_img("convert", "-m", 1, "-O", "raw", source, disk)
    assert digests(disk) == (samples["raw"].md5, samples["raw"].sha512)
