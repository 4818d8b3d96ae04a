#!/usr/bin/env python3
"""Brings what the build needs into .deps: libtorch, an MPI, libclang, cmake, nasm. `make setup` runs this.

Needs Python 3.9 and nothing else from Python; no root, no cargo. Exit code 0 when everything is in
place, 1 with a message when it is not.

    setup.py              bring what is missing (TORCH_CUDA=1: the CUDA libraries too)
    setup.py --check      only say what is in place; exit code 1 when something is missing
    setup.py --python F   a virtual environment .deps/python-X with the packages of requirements-X.txt
    setup.py --azurite    an Azure Blob server for the tests in .deps/azurite

Honours LIBTORCH (a libtorch of the right version instead of ours), MPICC, LIBCLANG_PATH, and pip's
settings: PIP_INDEX_URL, PIP_FIND_LINKS, PIP_CERT, https_proxy, pip.conf.
"""

import sys

if sys.version_info < (3, 9):
    sys.exit("set-up: error: Python %d.%d is too old; Python 3.9 or newer is needed" % sys.version_info[:2])
sys.dont_write_bytecode = True

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time

import azurite
from errors import SetupError, disk_full, size
from index import Index
from tools import Tools
from wheels import Store

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    """Parses the arguments, runs, and turns a SetupError into a message and exit code 1."""
    options = parse()
    try:
        return run(options)
    except SetupError as error:
        message = str(error)
    except OSError as error:
        message = str(disk_full(options.dest, error) or error)
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run it again to go on from here", file=sys.stderr)
        return 130
    sys.stdout.flush()
    print(f"set-up: error: {message}", file=sys.stderr)
    return 1


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dest", default=os.path.join(os.path.dirname(HERE), ".deps"), help="the folder to fill")
    parser.add_argument("--lock", default=os.path.join(HERE, "lock.json"), help="the pinned files")
    parser.add_argument("--index-url", help="the package index (default: pip's)")
    parser.add_argument("--find-links", action="append", default=[], help="a folder of wheels, asked first")
    parser.add_argument("--check", action="store_true", help="only say what is in place")
    parser.add_argument("--python", metavar="FILE", help="make .deps/python-X from the file requirements-X.txt")
    parser.add_argument("--azurite", action="store_true", help="make .deps/azurite, a server for the tests")
    parser.add_argument("--skip-tools", action="store_true", help="bring the pinned libraries only")
    parser.add_argument("--assume-free-bytes", type=int, help="for tests: take this as the free disk space")
    parser.add_argument("--retry-seconds", type=float, default=2.0, help="wait before the n-th retry: n times this")
    options = parser.parse_args()
    options.dest = os.path.abspath(options.dest)
    return options


def run(options):
    """The whole set-up; returns the exit code."""
    began = time.monotonic()
    with open(options.lock, encoding="utf-8") as file:
        lock = json.load(file)
    check_machine(lock)
    index = Index(options.index_url, options.find_links)
    store = Store(options.dest, index, options.assume_free_bytes, options.retry_seconds)
    wheels = {piece["name"]: piece for piece in lock["pieces"] if piece["set"] == "tool"}
    tools = None if options.skip_tools else Tools(options.dest, store, wheels)
    libraries = wanted_libraries(lock)
    if options.check:
        return check(store, libraries, tools)
    os.makedirs(options.dest, exist_ok=True)
    with exclusive(options.dest):
        if options.python:
            return python_environment(options, store)
        if options.azurite:
            options.python = azurite.REQUIREMENTS
            python_environment(options, store)
            azurite.bring(options.dest, store)
            return 0
        missing = store.missing(libraries)
        chosen = tools.chosen() if tools else {}
        if not missing and chosen is not None:
            print(f"set-up: everything is in place ({summary(libraries, chosen)}); nothing to do")
            return 0
        if tools:
            check_compilers()
        fetched = bring(store, missing, tools, chosen)
        chosen = tools.chosen() if tools else {}
    print(f"set-up: done in {time.monotonic() - began:.0f} s, {size(fetched)} downloaded: {summary(libraries, chosen)}")
    return 0


def bring(store, missing, tools, chosen):
    """Brings the missing libraries and tools in one go, so that the total is known before it begins."""
    choice, needed = tools.choose() if tools and chosen is None else (None, [])
    fetched = store.bring(missing + store.missing(needed))
    if choice:
        tools.link(choice)
    shutil.rmtree(store.downloads, ignore_errors=True)
    return fetched


def wanted_libraries(lock):
    """The pieces of libtorch that this machine should have: none when LIBTORCH names a fitting one."""
    given = os.environ.get("LIBTORCH")
    if given:
        check_libtorch(given, lock["torch_version"])
        return []
    sets = {"base", "cuda"} if os.environ.get("TORCH_CUDA", "0") not in ("", "0") else {"base"}
    return [piece for piece in lock["pieces"] if piece["set"] in sets]


def check_libtorch(folder, version):
    """Raises SetupError unless `folder` is a libtorch of the version that tch is made for."""
    fix = f"Set LIBTORCH to a libtorch {version}, or unset it and set-up brings one"
    for needed in ("lib/libtorch_cpu.so", "lib/libc10.so", "include/torch/csrc/api/include/torch/torch.h"):
        if not os.path.exists(os.path.join(folder, needed)):
            raise SetupError(f"LIBTORCH is set to {folder}, which has no {needed}. {fix}")
    found = "unknown"
    try:
        with open(os.path.join(folder, "build-version"), encoding="utf-8") as file:
            found = file.read().strip()
    except OSError:
        with open(os.path.join(folder, "include/torch/headeronly/version.h"), encoding="utf-8") as file:
            numbers = dict(re.findall(r"TORCH_VERSION_(MAJOR|MINOR|PATCH) (\d+)", file.read()))
            found = ".".join(numbers.get(part, "?") for part in ("MAJOR", "MINOR", "PATCH"))
    if found.split("+")[0] != version:
        raise SetupError(f"LIBTORCH is set to {folder}, which is libtorch {found}; {version} is needed. {fix}")


def check_machine(lock):
    """Raises SetupError on a machine for which nothing is pinned."""
    found = (platform.system(), platform.machine())
    expected = (lock["system"], lock["machine"])
    if found != expected:
        raise SetupError(
            f"this machine is {' '.join(found)}; the pinned libraries are for {' '.join(expected)} only. "
            "Use such a machine, or build with your own LIBTORCH, MPICC and LIBCLANG_PATH without set-up"
        )
    name, version = platform.libc_ver()
    oldest = lock["minimum_glibc"]
    if name != "glibc" or _numbers(version) < _numbers(oldest):
        raise SetupError(
            f"this machine's C library is {name or 'not glibc'} {version}; the pinned libraries need glibc {oldest} or newer"
        )


def check_compilers():
    """Raises SetupError when the machine cannot compile C++: the one thing that set-up does not bring."""
    for names, package in ((("cc", "gcc"), "gcc"), (("c++", "g++"), "g++")):
        if not any(map(shutil.which, names)):
            raise SetupError(f"no {package} found. Install it (Debian, Ubuntu: the package build-essential)")


def check(store, libraries, tools):
    """Prints the state of every piece; returns 0 when all are in place."""
    complete = True
    for piece in libraries:
        there = store.present(piece)
        complete &= there
        print(f"{piece['name']:<24} {piece['version']:<12} {'in place' if there else 'missing'}")
    chosen = tools.chosen() if tools else {}
    complete &= chosen is not None
    for name, choice in sorted((chosen or {}).items()):
        print(f"{name:<24} {'from ' + choice['from']:<25} {choice.get('path', '')}")
    if chosen is None:
        print("tools                    not chosen yet: run `make setup`")
    return 0 if complete else 1


def summary(libraries, chosen):
    """One line: the libraries and where the tools come from."""
    words = [f"{piece['name']} {piece['version']}" for piece in libraries if piece["name"] == "libtorch"]
    words += ["CUDA libraries"] if any(piece["set"] == "cuda" for piece in libraries) else []
    words += [] if libraries else [f"libtorch from LIBTORCH={os.environ.get('LIBTORCH')}"]
    words += [f"{name} from {choice['from']}" for name, choice in sorted((chosen or {}).items())]
    return ", ".join(words)


def python_environment(options, store):
    """Makes a virtual environment with the packages of a requirements file: the peers of tests and benchmarks.

    requirements-test.txt goes to .deps/python-test, requirements-bench.txt to .deps/python-bench.
    """
    with open(options.python, "rb") as file:
        key = hashlib.sha256(file.read()).hexdigest() + platform.python_version()
    name = "python-" + os.path.basename(options.python).removeprefix("requirements-").removesuffix(".txt")
    place = os.path.join(options.dest, name)
    interpreter = os.path.join(place, "bin/python")
    if (store.read_stamp(name) or {}).get("key") == key and os.path.exists(interpreter):
        print(f"set-up: .deps/{name} is in place; nothing to do")
        return 0
    if not os.path.exists(interpreter):
        made = subprocess.run([sys.executable, "-m", "venv", place], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            raise SetupError(
                "this Python cannot make virtual environments. Install its venv module (Debian, Ubuntu: the package "
                f"python3-venv or python{sys.version_info[0]}.{sys.version_info[1]}-venv). It said: "
                + ((made.stdout + made.stderr).strip().splitlines() or ["nothing"])[-1]
            )
    command = [interpreter, "-m", "pip", "install", "--requirement", options.python, "--disable-pip-version-check"]
    if options.index_url:
        command += ["--index-url", options.index_url]
    command += [f"--find-links={folder}" for folder in options.find_links]
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError(f"pip could not install the packages of {options.python}; its message stands above")
    store.write_stamp(name, {"key": key})
    return 0


class exclusive:
    """Keeps two set-ups of one folder apart: the second waits."""

    def __init__(self, dest):
        self._file = open(os.path.join(dest, ".lock"), "a", encoding="utf-8")

    def __enter__(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another set-up of this folder is running; waiting for it to end", flush=True)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self._file.close()


def _numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    sys.exit(main())
