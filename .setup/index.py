"""Where wheels come from: the package index that this machine's pip is set to, and folders of wheels.

No registry is named here. The address is what the user or the site chose (PIP_INDEX_URL,
pip.conf); without either it is pip's own built-in default, asked of pip.
"""

import ast
import base64
import functools
import glob
import html
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

from errors import SetupError

JSON = "application/vnd.pypi.simple.v1+json"
ACCEPT = JSON + ", application/vnd.pypi.simple.v1+html;q=0.5, text/html;q=0.2"
TIMEOUT_S = 60

DEFAULT_OF_PIP = """
import sys
try:
    import pip
except ImportError:
    import ensurepip, glob, os
    sys.path[:0] = glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl"))
from pip._internal.models.index import PyPI
print(PyPI.simple_url)
"""


def _ask_python(*arguments):
    """What `python3 <arguments>` prints, or nothing when it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.lru_cache(maxsize=None)
def _pip_files():
    """What pip's files set for all commands, as `pip config list` prints it."""
    found = {}
    for line in _ask_python("-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        if name.startswith("global."):
            found[name.removeprefix("global.")] = ast.literal_eval(value)
    return found


def _pip_setting(name):
    """A pip setting: the environment first, as pip does, then pip's files."""
    return os.environ.get("PIP_" + name.upper().replace("-", "_")) or _pip_files().get(name, "")


class Index:
    """Finds a wheel by package and file name."""

    def __init__(self, index_url=None, find_links=()):
        self._given = index_url
        self._urls = None
        self._folders = [self._folder(f) for f in find_links]
        self._more_folders = None
        self._context = None

    def local_file(self, name):
        """The path of `name` in a find-links folder, or None."""
        if self._more_folders is None:
            self._more_folders = [self._folder(f) for f in _pip_setting("find-links").split()]
        for folder in self._folders + self._more_folders:
            for found in glob.glob(os.path.join(glob.escape(folder), name)):
                return found
        return None

    def urls(self):
        """The addresses to ask, in order."""
        if self._urls is None:
            first = self._given or _pip_setting("index-url") or _ask_python("-c", DEFAULT_OF_PIP)
            if not first:
                raise SetupError(
                    "no package index is known: PIP_INDEX_URL is not set and this Python has no pip to ask. "
                    "Install pip (Debian, Ubuntu: the package python3-pip) or set PIP_INDEX_URL"
                )
            extra = "" if self._given else _pip_setting("extra-index-url")
            self._urls = [url.rstrip("/") for url in [first, *extra.split()]]
        return self._urls

    def find(self, package, name):
        """The address of the file `name` of `package`. Raises SetupError saying what was tried."""
        tried = []
        for url in self.urls():
            page = f"{url}/{package}/"
            try:
                with self.open(page, {"Accept": ACCEPT}) as answer:
                    body = answer.read()
                    kind = answer.headers.get_content_type()
                    page = answer.geturl()
            except OSError as error:
                tried.append(f"{_without_secret(page)}: {reason(error)}")
                continue
            found = _files_json(body) if kind == JSON else _files_html(body)
            if name in found:
                return _with_secret_of(url, urllib.parse.urljoin(page, found[name]))
            tried.append(f"{_without_secret(page)}: lists no file {name}")
        raise SetupError(
            f"cannot find {name}. Tried:\n  " + "\n  ".join(tried) + "\n"
            "Check the network, or set PIP_INDEX_URL to a reachable package index (https_proxy and PIP_CERT are "
            "honoured), or PIP_FIND_LINKS to a folder that holds the wheels"
        )

    def open(self, url, headers):
        """Opens `url`; a name and password inside it are sent as basic authorisation."""
        parts = urllib.parse.urlsplit(url)
        headers = {"User-Agent": "blip2-setup", **headers}
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if self._context is None:
            self._context = ssl.create_default_context(cafile=_pip_setting("cert") or None)
        return urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S, context=self._context
        )

    @staticmethod
    def _folder(name):
        return urllib.request.url2pathname(urllib.parse.urlsplit(name).path) if name.startswith("file:") else name


def copy_local(source, target):
    """Copies a wheel from a find-links folder (a hard link where the file system allows it)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def reason(error):
    """One line that says why a request failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _with_secret_of(index, url):
    """`url` with the name and password of the index address when it is on the same host, as pip does."""
    parts, own = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    secret, _, host = own.netloc.rpartition("@")
    return parts._replace(netloc=f"{secret}@{host}").geturl() if secret and parts.netloc == host else url


def _without_secret(url):
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _files_json(body):
    return {entry["filename"]: entry["url"] for entry in json.loads(body)["files"]}


def _files_html(body):
    found = {}
    for link, text in re.findall(r'<a\s[^>]*?href="([^"]+)"[^>]*>([^<]+)</a>', body.decode("utf-8", "replace"), re.I):
        found[html.unescape(text).strip()] = html.unescape(link)
    return found
