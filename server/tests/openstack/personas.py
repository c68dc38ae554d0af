"""Who uses the cloud in the tests: every role that the API's policy tells apart."""

from dataclasses import dataclass

# Of everybody; the cloud listens on loopback and is gone when the test is.
PASSWORD = "rigadmin"


@dataclass(frozen=True)
class Persona:
    """A user, acting for one project."""

    user: str
    project: str
    roles: tuple[str, ...]


PERSONAS = {
    "admin": Persona("admin", "admin", ("admin",)),
    "member": Persona("demo", "demo", ("member",)),
    "reader": Persona("demo_reader", "demo", ("reader",)),
    "project-admin": Persona("demo_admin", "demo", ("admin",)),
    "other": Persona("alt", "alt", ("member",)),
    "other-reader": Persona("alt_reader", "alt", ("reader",)),
    # As other services of a cloud usually are: they administer, and may vouch for a user.
    "service": Persona("nova", "service", ("admin", "service")),
    # May ask whom a token belongs to, and nothing else.
    "validator": Persona("vitrail", "service", ("service",)),
    # Has a project, and no role that the image API knows.
    "stranger": Persona("guest", "alt", ("guest",)),
}
