"""A daemon without authentication, and images to give it."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import subprocess
import time
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Sample:
    """An image file."""

    path: pathlib.Path
    disk_format: str
    virtual_size: int
    size: int
    md5: str
    sha512: str


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    """URL of the Image API of a new daemon, stopped at the end."""
    with daemon(tmp_path_factory.mktemp("site")) as url:
        yield url


@contextlib.contextmanager
def daemon(directory, *options):
    """A new daemon; the URL of its Image API."""
    data_dir = directory / "data"
    listen = ["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [os.environ["VITRAILD_BIN"], "--data-dir", data_dir, *listen, *options],
            stderr=log,
        )
    endpoints = data_dir / "endpoints.json"
    for _ in range(600):
        if endpoints.exists():
            break
        assert process.poll() is None, (directory / "log").read_text()
        time.sleep(0.1)
    yield json.loads(endpoints.read_text())["api"]
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture(scope="session")
def qemu_img():
    """Runs qemu-img and returns what it prints."""

    def run(*arguments):
        command = [os.environ["QEMU_IMG"], *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def samples(tmp_path_factory, qemu_img):
    """The same disk raw, as qcow2 and as compressed qcow2."""
    directory = tmp_path_factory.mktemp("images")
    if corpus := os.environ.get("VITRAIL_CORPUS"):
        raw = pathlib.Path(corpus) / "bookworm-base.raw"
        compressed = pathlib.Path(corpus) / "bookworm-base.zlib.qcow2"
    else:
        raw = directory / "disk.raw"
        write_disk(raw)
        compressed = directory / "disk.zlib.qcow2"
        qemu_img("convert", "-c", "-O", "qcow2", raw, compressed)
    plain = directory / "disk.qcow2"
    qemu_img("convert", "-O", "qcow2", raw, plain)
    virtual_size = raw.stat().st_size
    return {
        "raw": sample(raw, "raw", virtual_size),
        "qcow2": sample(plain, "qcow2", virtual_size),
        "compressed": sample(compressed, "qcow2", virtual_size),
    }


@pytest.fixture(params=["raw", "qcow2", "compressed"])
def image(request, samples):
    """Each of the samples in turn."""
    return samples[request.param]


def write_disk(path):
    """64 MiB: a sane partition table, noise, text, and holes."""
    noise = random.Random(1)
    with open(path, "wb") as disk:
        disk.truncate(64 << 20)
        disk.seek(1 << 20)
        disk.write(noise.randbytes(9_000_000))
        disk.seek(40 << 20)
        disk.write(b"all work and no play makes a dull disk\n" * 100_000)


def sample(path, disk_format, virtual_size):
    md5, sha512 = digests(path)
    return Sample(path, disk_format, virtual_size, path.stat().st_size, md5, sha512)


def digests(path):
    """MD5 and SHA-512 of a file."""
    sums = hashlib.md5(), hashlib.sha512()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for one in sums:
                one.update(block)
    return tuple(one.hexdigest() for one in sums)
