"""Stores whose site is scripted."""

import glance_store
import pytest
from glance_store import location
from oslo_config import cfg
from scripted import ScriptedSite
from stores import section

from glance_store_vitrail import site as vitrail_site


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Retries come at once; the pauses between them are in the list."""
    pauses = []
    monkeypatch.setattr(vitrail_site.time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def site():
    served = ScriptedSite()
    yield served
    served.stop()


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Load a store as Glance does, from a configuration file's text: `configured(text)`."""
    monkeypatch.setattr(location, "SCHEME_TO_CLS_BACKEND_MAP", {})
    monkeypatch.setattr(location, "SCHEME_TO_CLS_MAP", {})

    def load(text):
        path = tmp_path / "glance.conf"
        path.write_text(text)
        conf = cfg.ConfigOpts()
        conf.register_opt(cfg.DictOpt("enabled_backends"))
        conf(["--config-file", str(path)])
        if conf.enabled_backends:
            glance_store.register_store_opts(conf)
            glance_store.create_multi_stores(conf)
            [stores] = location.SCHEME_TO_CLS_BACKEND_MAP.values()
            return stores["mesh"]["store"]
        glance_store.register_opts(conf)
        glance_store.create_stores(conf)
        return location.SCHEME_TO_CLS_MAP["vitrail"]["store"]

    return load


@pytest.fixture
def store(configured, site):
    """A store named `mesh`."""
    return configured(section(site.url))
