"""openstacksdk's own functional tests of the image service, as its package has them."""

import os
import subprocess
import sys

import pytest
import requests

TESTS = ["openstack.tests.functional.image", "openstack.tests.functional.cloud.test_image"]

CLOUDS = """\
clouds:
  devstack: {member}
  devstack-alt: {other}
  devstack-admin: {admin}
  devstack-system-admin: {admin}
"""
CLOUD = """
    auth:
      auth_url: {auth_url}
      username: {user}
      password: {password}
      project_name: {project}
      user_domain_id: default
      project_domain_id: default
    region_name: {region}
    image_endpoint_override: {image}
"""


@pytest.fixture
def environment(keystone, site, acting, tmp_path):
    """Variables and files that the tests look for."""

    def cloud(persona):
        who = keystone["personas"][persona]
        return CLOUD.format(
            auth_url=keystone["auth_url"],
            password=keystone["password"],
            region=keystone["region"],
            image=site.url,
            user=who["user"],
            project=who["project"],
        )

    clouds = CLOUDS.format(**{name: cloud(name) for name in ("member", "other", "admin")})
    (tmp_path / "clouds.yaml").write_text(clouds)
    # They upload this file of their source tree.
    (tmp_path / "CONTRIBUTING.rst").write_text("This is not an image.\n" * 1000)
    # They pick an image that could be booted.
    headers = {"X-Auth-Token": acting("admin").auth_token}
    image = {"name": "ubuntu", "visibility": "public", "disk_format": "raw", "container_format": "bare"}
    answer = requests.post(f"{site.url}/v2/images", json=image, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    yield os.environ | {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml"), "OS_TEST_TIMEOUT": "120"}
    requests.delete(f"{site.url}/v2/images/{answer.json()['id']}", headers=headers, timeout=30)


def test_functional_tests(environment, tmp_path):
    options = ["-v", "--tb=short", "--show-capture=no", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "--pyargs", *TESTS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "skipped" not in done.stdout.splitlines()[-1]
