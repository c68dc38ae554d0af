"""A real Glance whose users a Keystone knows: SQLite, any stores, policy and inspection as shipped."""

import sys
from pathlib import Path

import processes
from keystone_server import REGION
from personas import PASSWORD, PERSONAS

CONFIG = """\
[DEFAULT]
enabled_backends = {enabled}
image_cache_dir = {directory}/cache
worker_self_reference_url = {url}
{options}

[database]
connection = sqlite:///{directory}/glance.sqlite

[glance_store]
default_backend = {default}
{sections}
[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging

[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks

[import_filtering_opts]
# The default forbids all ports but the usual two, which tests do not listen on.
allowed_ports = []

[keystone_authtoken]
auth_type = password
auth_url = {auth_url}
www_authenticate_uri = {auth_url}
username = {user}
password = {password}
project_name = {project}
user_domain_id = default
project_domain_id = default
region_name = {region}

[paste_deploy]
flavor = keystone+cachemanagement
config_file = {paste}
"""


class Glance:
    """A running Glance at `url`.

    `stores` are kinds by name, the default one first; `sections` is what the configuration says of them beyond
    the directories of file stores, `options` what its first section says besides.
    """

    def __init__(self, keystone, directory, port=None, stores=None, sections="", options=""):
        stores = stores or {"fast": "file", "slow": "file"}
        self.directory = Path(directory)
        self.port = port or processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        for name in ("cache", "staging", "tasks"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        service = PERSONAS["service"]
        config = self.directory / "glance-api.conf"
        config.write_text(
            CONFIG.format(
                enabled=",".join(f"{name}:{kind}" for name, kind in stores.items()),
                default=next(iter(stores)),
                sections=self._file_stores(stores) + sections,
                options=options,
                directory=self.directory,
                url=self.url,
                auth_url=keystone.url,
                user=service.user,
                password=PASSWORD,
                project=service.project,
                region=REGION,
                paste=Path(sys.prefix) / "etc/glance/glance-api-paste.ini",
            )
        )
        manage = processes.tool("glance-manage")
        processes.run(manage, "--config-file", config, "db_sync")
        self._server = processes.wsgi_server(
            "glance.wsgi.api:application",
            self.port,
            self.directory,
            OS_GLANCE_CONFIG_DIR=str(self.directory),
        )
        self._server.wait_ready("/healthcheck")

    def _file_stores(self, stores):
        text = ""
        for name, kind in stores.items():
            if kind == "file":
                (self.directory / name).mkdir(exist_ok=True)
                text += f"\n[{name}]\nfilesystem_store_datadir = {self.directory / name}\n"
        return text

    def tail(self):
        """The end of its log."""
        return self._server.tail()

    def stop(self):
        self._server.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()
