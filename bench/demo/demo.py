#!/usr/bin/env python3
"""Takes two real Debian images through a mesh of three sites and shows what is saved.

Three sites run on loopback, each with its own data, ports and certificate. The image of a new Debian 12 is pushed at
the first, preseeded to the second, and pulled at the third, which never heard of it before; then the same with the
image after its updates. `./dev demo` builds the programs and runs this with VITRAIL_BIN set to the directory
they are in.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from sites import DemoError, Site, free_udp_port, run, say

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = {"debian-12": "bookworm-base", "debian-12-updated": "bookworm-updated"}
SITES = ("paris", "lyon", "nice")
SCRATCH_NEEDED = 4 << 30  # three stores and one pulled image, with room to spare
JOIN_TIMEOUT_S = 60

# Bytes that each link carried: (sender, receiver) -> bytes.
Traffic = dict[tuple[str, str], int]


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        say("  " + "  ".join(cells))


def corpus() -> Path:
    """The directory with the images, which are built if they are not there."""
    default = Path.home() / ".cache/vitrail-bench/corpus"
    directory = Path(os.environ.get("VITRAIL_CORPUS", default))
    if not all((directory / f"{name}.raw").exists() for name in IMAGES.values()):
        say(f"Build the images in {directory}: real Debian systems from packages, some minutes, once.")
        build: list[object] = [REPOSITORY / "bench/corpus/build", directory, *IMAGES.values()]
        run(*build if os.geteuid() == 0 else ["sudo", *build])
    return directory


def start_mesh(programs: Path, scratch: Path, running: ExitStack) -> list[Site]:
    """Starts the sites. All but the first know one address: that of the first."""
    certificates = scratch / "ca"
    vitrail = programs / "vitrail"
    run(vitrail, "ca", "init", "--dir", certificates)
    for name in SITES:
        run(vitrail, "ca", "issue", name, "--dir", certificates)
    ports = [free_udp_port() for _ in SITES]
    sites = []
    for index, name in enumerate(SITES):
        seeds = ports[: min(index, 1)]
        site = Site(programs, scratch, name, certificates, ports[index], seeds)
        sites.append(running.enter_context(site))
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while any(site.peers_up() < len(SITES) - 1 for site in sites):
        if time.monotonic() > deadline:
            raise DemoError(f"the sites do not see each other after {JOIN_TIMEOUT_S} s")
        time.sleep(0.1)
    return sites


def distribute(name: str, image: Path, sites: list[Site], scratch: Path) -> Traffic:
    """Takes one image everywhere, and returns what that cost."""
    first, second, third = sites
    before = {site.name: site.received() for site in sites}
    pulled = scratch / "pulled.raw"
    first.vitrail("image", "push", image, "--name", name, "--disk-format", "raw")
    first.vitrail("preseed", name, "--sites", second.name)
    third.vitrail("image", "pull", name, "--output", pulled)
    run("cmp", image, pulled)
    say("  the same bytes")
    pulled.unlink()
    return {
        (peer, site.name): carried
        for site in (second, third)
        for peer, count in site.received().items()
        if (carried := count - before[site.name].get(peer, 0)) > 0
    }


def report(traffic: dict[str, Traffic], files: dict[str, tuple[int, int]]) -> None:
    """Prints what each link carried for each image, beside copies of the files (raw and compressed qcow2)."""
    say("\nBytes on the links, as sent after encoding:")
    rows = [("", *traffic)]
    for sender, receiver in sorted({link for carried in traffic.values() for link in carried}):
        carried = (size(it.get((sender, receiver), 0)) for it in traffic.values())
        rows.append((f"{sender} to {receiver}", *carried))
    receivers = SITES[1:]
    totals = {name: sum(carried.values()) for name, carried in traffic.items()}
    copies = {name: qcow2 * len(receivers) for name, (_, qcow2) in files.items()}
    raw_copies = {name: raw * len(receivers) for name, (raw, _) in files.items()}
    saved = {name: f"{100 * (1 - totals[name] / copies[name]):.0f}%" for name in traffic}
    rows.append(("in all", *map(size, totals.values())))
    rows.append(("two copies of the raw file", *map(size, raw_copies.values())))
    rows.append(("two copies as compressed qcow2", *map(size, copies.values())))
    rows.append(("saved against those", *saved.values()))
    print_table(rows)


def demo(programs: Path, scratch: Path) -> None:
    images = corpus()
    traffic: dict[str, Traffic] = {}
    files: dict[str, tuple[int, int]] = {}
    with ExitStack() as running:
        sites = start_mesh(programs, scratch, running)
        for name, stem in IMAGES.items():
            say("")
            raw, qcow2 = images / f"{stem}.raw", images / f"{stem}.zlib.qcow2"
            traffic[name] = distribute(name, raw, sites, scratch)
            files[name] = (raw.stat().st_size, qcow2.stat().st_size)
        stored = sites[0].store()["disk_bytes"]
    report(traffic, files)
    both = sum(qcow2 for _, qcow2 in files.values())
    say(f"\nA site stores both images in {size(stored)}; as compressed qcow2 files they take {size(both)}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="keep the sites' data and logs")
    keep = parser.parse_args().keep
    # So that a stop asked for by a signal also stops the daemons.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scratch = Path(tempfile.mkdtemp(prefix="vitrail-demo-"))
    try:
        if shutil.disk_usage(scratch).free < SCRATCH_NEEDED:
            raise DemoError(f"{scratch.parent} needs {size(SCRATCH_NEEDED)} free; set TMPDIR to another")
        demo(Path(os.environ["VITRAIL_BIN"]), scratch)
        return 0
    except DemoError as reason:
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
