#!/usr/bin/env python3
"""Takes two real Debian images through Vitrail and shows what is saved.

A site is started on free ports, with its data in a temporary directory. The image of a new Debian 12 goes in and
comes out again, then the same image with later updates. `./dev demo` builds the programs and runs this with
VITRAIL_BIN set to the directory they are in.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = {"debian-12": "bookworm-base", "debian-12-updated": "bookworm-updated"}
SCRATCH_NEEDED = 3 << 30  # one store and one pulled image, with room to spare
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


class Failed(Exception):
    """The demo cannot go on, for the reason given."""


def say(text: str) -> None:
    print(text, flush=True)


def size(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def run(*command: object, env: dict[str, str] | None = None) -> str:
    """Runs a command as if typed at a prompt, and returns its standard output."""
    words = [str(word) for word in command]
    say(f"$ {shlex.join([Path(words[0]).name, *words[1:]])}")
    begin = time.monotonic()
    result = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Failed(f"{Path(words[0]).name} ended with exit code {result.returncode}")
    say(f"  {time.monotonic() - begin:.1f} s")
    return result.stdout


class Site:
    """A running daemon and the command that speaks to it. Leaving the context stops the daemon."""

    def __init__(self, programs: Path, directory: Path):
        self.programs = programs
        self.data_dir = directory / "site"
        self.log = directory / "vitraild.log"
        command = [programs / "vitraild", "--data-dir", self.data_dir]
        listen = ["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen([*command, *listen], stderr=log)

    def __enter__(self) -> "Site":
        endpoints = self._wait_for_endpoints()
        self.env = os.environ | {
            "VITRAIL_ENDPOINT": endpoints["api"],
            "VITRAIL_ADMIN_ENDPOINT": endpoints["admin"],
        }
        say(f"vitraild serves the Image API at {endpoints['api']}, log in {self.log}")
        return self

    def _wait_for_endpoints(self) -> dict[str, str]:
        path = self.data_dir / "endpoints.json"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.daemon.poll() is not None:
                raise Failed(f"vitraild did not start:\n{self.log.read_text()}")
            if path.exists():
                return json.loads(path.read_text())
            time.sleep(0.05)
        self.stop()
        raise Failed(f"vitraild is not ready after {START_TIMEOUT_S} s, see {self.log}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()

    def vitrail(self, *arguments: object) -> str:
        return run(self.programs / "vitrail", *arguments, env=self.env)

    def store(self) -> dict[str, int]:
        return json.loads(self.vitrail("store", "stats", "--json"))


def corpus() -> Path:
    """The directory with the images, which are built if they are not there."""
    default = Path.home() / ".cache/vitrail-bench/corpus"
    directory = Path(os.environ.get("VITRAIL_CORPUS", default))
    if not all((directory / f"{name}.raw").exists() for name in IMAGES.values()):
        say(f"\nBuild the images in {directory}: real Debian systems from packages, some minutes, once.")
        build: list[object] = [REPOSITORY / "bench/corpus/build", directory, *IMAGES.values()]
        run(*build if os.geteuid() == 0 else ["sudo", *build])
    return directory


def take_through(site: Site, name: str, image: Path, scratch: Path) -> None:
    """Pushes an image, pulls it again and compares the two."""
    pulled = scratch / "pulled.raw"
    site.vitrail("image", "push", image, "--name", name, "--disk-format", "raw")
    site.vitrail("image", "pull", name, "--output", pulled)
    run("cmp", image, pulled)
    say("  the same bytes")
    pulled.unlink()


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:])]
        say("  ".join(cells))


def demo(programs: Path, scratch: Path) -> None:
    images = corpus()
    rows = [("image", "size", "without holes", "as compressed qcow2", "added to the store")]
    total_qcow2 = 0
    with Site(programs, scratch) as site:
        stats = site.store()
        for name, stem in IMAGES.items():
            say("")
            before = stats
            image, qcow2 = images / f"{stem}.raw", images / f"{stem}.zlib.qcow2"
            take_through(site, name, image, scratch)
            stats = site.store()
            total_qcow2 += qcow2.stat().st_size
            data = stats["data_bytes"] - before["data_bytes"]
            added = stats["disk_bytes"] - before["disk_bytes"]
            sizes = (image.stat().st_size, data, qcow2.stat().st_size, added)
            rows.append((name, *map(size, sizes)))
    totals = (stats["logical_bytes"], stats["data_bytes"], total_qcow2, stats["disk_bytes"])
    rows.append(("both", *map(size, totals)))
    say("")
    print_table(rows)
    saved = 100 * (1 - stats["disk_bytes"] / total_qcow2)
    say(f"\nThe store holds both images in {saved:.0f}% less than two compressed qcow2 files.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="keep the site's data and log")
    keep = parser.parse_args().keep
    # So that a stop asked for by a signal also stops the daemon.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scratch = Path(tempfile.mkdtemp(prefix="vitrail-demo-"))
    try:
        if shutil.disk_usage(scratch).free < SCRATCH_NEEDED:
            raise Failed(f"{scratch.parent} needs {size(SCRATCH_NEEDED)} free; set TMPDIR to another")
        demo(Path(os.environ["VITRAIL_BIN"]), scratch)
        return 0
    except Failed as reason:
        print(f"demo: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if keep:
            say(f"Kept: {scratch}")
        else:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
