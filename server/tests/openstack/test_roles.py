"""Are roles worth here what they are worth in Glance? Measured in one run, with the same tokens."""

import os
from pathlib import Path

from image_api import COLUMNS, Cloud
from personas import PERSONAS
from roles import measure

PAGE = Path(__file__).parents[2] / "docs" / "ROLES.md"

HIDDEN = "who may not see it is told that it is not there"
# Differences that are meant: (section or *, operation) and why.
MEANT = {
    ("*", "publish"): HIDDEN,
    ("*", "offer to the community"): HIDDEN,
    ("*", "give to another project"): HIDDEN,
    ("*", "download when deactivated"): HIDDEN,
    ("*", "list members"): HIDDEN,
    ("*", "add a member"): HIDDEN,
    ("*", "decide as member"): HIDDEN,
    ("*", "remove a member"): HIDDEN,
}


def test_roles_are_worth_the_same(keystone, glance, site):
    theirs = measure(Cloud("Glance", glance.url, keystone))
    ours = measure(Cloud("Vitrail", site.url, keystone))
    page = render(theirs, ours)
    if os.environ.get("ROLES_WRITE") == "1":
        PAGE.write_text(page)
    differing = {key for key in theirs if theirs[key] != ours[key]}
    unmeant = {key for key in differing if not reason(key)}
    assert not unmeant, "\n".join(f"{key}: {theirs[key]} became {ours[key]}" for key in sorted(unmeant))
    unneeded = {key for key in MEANT if not any(covers(key, one) for one in differing)}
    assert not unneeded, f"no difference any more: {unneeded}"


def covers(meant, key):
    return meant[0] in ("*", key[0]) and meant[1] == key[1]


def reason(key):
    return next((why for meant, why in MEANT.items() if covers(meant, key)), None)


HEAD = """\
# What roles are worth

Status codes by who asks, measured by `./dev openstack` with real tokens of one Keystone: of Glance 33.0
with its default policy, and of Vitrail in the same run. One code stands for both; where they differ, Glance's comes
first, and the last column says why.

"""


def render(theirs, ours):
    lines = [HEAD, "| who | roles | project |\n|---|---|---|\n"]
    for name, who in PERSONAS.items():
        lines.append(f"| {name} | {', '.join(who.roles)} | {who.project} |\n")
    lines.append(
        "\nImages are of the project demo. Shared ones are shared with alt, which decided as the heading says. "
        "`admin` implies `member`, and `member` implies `reader`.\n"
    )
    section = None
    for key in theirs:
        if key[0] != section:
            section = key[0]
            heading = section if section == "no image" else f"A {section} image"
            lines.append(f"\n## {heading.capitalize()}\n\n")
            lines.append(f"| operation | {' | '.join(COLUMNS)} | |\n")
            lines.append(f"|---|{'---|' * len(COLUMNS)}---|\n")
        cells = [str(a) if a == b else f"**{a} → {b}**" for a, b in zip(theirs[key], ours[key], strict=True)]
        why = reason(key) or "" if theirs[key] != ours[key] else ""
        lines.append(f"| {key[1]} | {' | '.join(cells)} | {why} |\n")
    return "".join(lines)
