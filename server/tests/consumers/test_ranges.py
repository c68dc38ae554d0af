"""Those who read parts of an image: the requests of Ironic, its deploy agent, and Cinder."""

import pytest
import requests


@pytest.fixture(scope="module")
def image(site, member, disks):
    """Id of an active qcow2."""
    session = requests.Session()
    session.headers["X-Auth-Token"] = member.auth_token
    document = {"name": "disk", "disk_format": "qcow2", "container_format": "bare"}
    created = session.post(f"{site.url}/v2/images", json=document, timeout=30).json()["id"]
    answer = session.put(
        f"{site.url}/v2/images/{created}/file",
        data=disks["qcow2"].read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert answer.status_code == 204, answer.text
    return created


@pytest.fixture
def ask(site, member, image):
    """Request the image's data: `ask("GET", Range="bytes=0-9")`."""

    def send(method, **headers):
        headers["X-Auth-Token"] = member.auth_token
        return requests.request(method, f"{site.url}/v2/images/{image}/file", headers=headers, timeout=60)

    return send


def test_a_deploy_agent_asks_for_the_size_first(ask, disks):
    head = ask("HEAD")
    assert head.status_code == 200
    assert int(head.headers["Content-Length"]) == disks["qcow2"].stat().st_size
    assert head.headers["Accept-Ranges"] == "bytes"


def test_a_broken_download_is_resumed(ask, disks):
    """As ironic-python-agent and cinder do: what is there is counted, and the rest asked for."""
    data = disks["qcow2"].read_bytes()
    received = data[:1_000_001]
    rest = ask("GET", Range=f"bytes={len(received)}-")
    assert rest.status_code == 206
    assert rest.headers["Content-Range"] == f"bytes 1000001-{len(data) - 1}/{len(data)}"
    assert received + rest.content == data


def test_a_complete_download_cannot_be_resumed(ask, disks):
    assert ask("GET", Range=f"bytes={disks['qcow2'].stat().st_size}-").status_code == 416


def test_inspection_reads_the_head_only(ask, disks):
    head = ask("GET", Range="bytes=0-511")
    assert head.status_code == 206
    assert head.content == disks["qcow2"].read_bytes()[:512]
