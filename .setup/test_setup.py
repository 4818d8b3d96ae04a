"""Tests of the set-up, against a package index on the loopback interface with small made-up wheels.

`python3 .setup/test_setup.py` runs them all; tests/tests/setup.rs runs each of them for `make test`.
"""

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
SETUP = os.path.join(HERE, "setup.py")
PLENTY = str(10**12)


def wheel(members):
    """The bytes of a wheel with these members; contents that cannot be compressed keep their size."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def piece(name, file, content, unpacked=300_000, **more):
    """A lock entry that pins `content`."""
    return {
        "name": name, "set": "base", "package": name, "version": "1.0", "file": file, "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "unpacked": unpacked, "into": "site", **more,
    }  # fmt: skip


class PackageIndex(http.server.BaseHTTPRequestHandler):
    """Serves `/simple/<package>/` and `/files/<name>`; misbehaves as the test asks."""

    def do_GET(self):
        world = self.server.world
        world.requests.append((self.path, self.headers.get("Range")))
        if world.password and self.headers.get("Authorization") != world.password:
            return self.send_error(401)
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "simple":
            return self.listing(world)
        content = world.files.get(name)
        if kind != "files" or content is None:
            return self.send_error(404)
        start = 0
        asked = self.headers.get("Range")
        if asked and world.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if world.cuts > 0:
            world.cuts -= 1
            end = start + (len(content) - start) // 2
        self.wfile.write(content[start:end])

    def listing(self, world):
        if world.html:
            links = "".join(f'<a href="../../files/{n}#sha256=0" data-x="1">{n}</a>\n' for n in world.files)
            body, kind = f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html"
        else:
            entries = [{"filename": n, "url": f"../../files/{n}", "hashes": {}} for n in world.files]
            body, kind = json.dumps({"files": entries}).encode(), "application/vnd.pypi.simple.v1+json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class SetupTest(unittest.TestCase):
    """Each test has a folder, a lock of two pieces, and an index that serves them."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="blip2-setup-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.dest = os.path.join(self.folder, "deps")
        library = wheel({"torch/lib/libtorch_cpu.so": os.urandom(200_000), "torch/lib/libtorch_cuda.so": b"cuda", "torch/x.py": b""})
        runtime = wheel({"nvidia/lib/libcudart.so": os.urandom(20_000), "runtime.data/data/bin/tool": b"#!/bin/sh\n"})
        self.library, self.runtime = "torch-1.0-py3-none-any.whl", "runtime-1.0-py3-none-any.whl"
        self.files = {self.library: library, self.runtime: runtime}
        self.pieces = [
            piece("libtorch", self.library, library, package="torch", include=["torch/lib/"],
                  exclude=["torch/lib/libtorch_cuda"], write={"torch/build-version": "1.0"}),
            piece("runtime", self.runtime, runtime),
        ]  # fmt: skip
        self.requests, self.cuts, self.ranges, self.html, self.password = [], 0, True, False, None
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PackageIndex)
        server.world = self
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.port = server.server_port

    def write_lock(self, **more):
        path = os.path.join(self.folder, "lock.json")
        lock = {"system": "Linux", "machine": os.uname().machine, "minimum_glibc": "2.17", "torch_version": "1.0"}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**lock, "pieces": self.pieces, **more}, file)
        return path

    def command(self, *more, index=True, tools=False, **lock):
        words = [sys.executable, SETUP, "--dest", self.dest, "--lock", self.write_lock(**lock), "--retry-seconds", "0.05"]
        words += ["--index-url", f"http://127.0.0.1:{self.port}/simple"] if index else []
        return [*words, *([] if tools else ["--skip-tools"]), *more]

    def environment(self, **more):
        dropped = ("LIBTORCH", "MPICC", "LIBCLANG_PATH", "TORCH_CUDA", "MAKEFLAGS")
        kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("PIP_")}
        return {**kept, "PIP_CONFIG_FILE": os.devnull, "no_proxy": "127.0.0.1", **more}

    def run_setup(self, *more, env=None, **options):
        return subprocess.run(
            self.command(*more, **options), env=self.environment(**(env or {})),
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def path(self, *parts):
        return os.path.join(self.dest, *parts)

    def assert_done(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(self.path("site/torch/lib/libtorch_cpu.so"), "rb") as file:
            content = file.read()
        with zipfile.ZipFile(io.BytesIO(self.files[self.library])) as archive:
            self.assertEqual(content, archive.read("torch/lib/libtorch_cpu.so"))
        self.assertFalse(os.path.exists(self.path("downloads")))

    def assert_refused(self, done, *words):
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("set-up: error: ", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def assert_nothing_half_written(self, kept_parts=()):
        """No piece counts as there, no half-unpacked folder lies about, no file has its final name."""
        found = [os.path.join(at, name) for at, _, names in os.walk(self.dest) for name in names]
        expected = [self.path(".lock")] + [self.path("downloads", name + ".part") for name in kept_parts]
        self.assertEqual(sorted(set(found) - {self.path(".lock")}), sorted(set(expected) - {self.path(".lock")}))

    def file_requests(self):
        return [(path, asked) for path, asked in self.requests if path.startswith("/files/")]

    def test_fresh(self):
        done = self.run_setup()
        self.assert_done(done)
        total = sum(map(len, self.files.values())) / 1e3
        self.assertTrue(done.stdout.startswith(f"set-up: 2 files, {total:.1f} kB"), done.stdout)
        self.assertIn("100%", done.stderr)
        with open(self.path("site/torch/build-version"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "1.0\n")
        self.assertTrue(os.path.exists(self.path("site/bin/tool")), "a wheel's data folder is installed at its root")
        self.assertFalse(os.path.exists(self.path("site/torch/lib/libtorch_cuda.so")))
        self.assertFalse(os.path.exists(self.path("site/torch/x.py")))

    def test_index_in_html(self):
        self.html = True
        self.assert_done(self.run_setup())

    def test_second_run_does_nothing_and_says_so_in_one_line(self):
        self.assert_done(self.run_setup())
        self.requests.clear()
        began = time.monotonic()
        again = self.run_setup()
        took = time.monotonic() - began
        self.assertEqual((again.returncode, self.requests, again.stderr), (0, [], ""))
        self.assertEqual(len(again.stdout.splitlines()), 1, again.stdout)
        self.assertIn("nothing to do", again.stdout)
        # 0.2 s on an idle core; the limit leaves room for a machine that is busy with other tests.
        self.assertLess(took, 5.0)

    def test_a_deleted_file_is_brought_again(self):
        self.assert_done(self.run_setup())
        os.remove(self.path("site/torch/lib/libtorch_cpu.so"))
        self.assertEqual(self.run_setup("--check").returncode, 1)
        self.requests.clear()
        self.assert_done(self.run_setup())
        self.assertEqual([path for path, _ in self.file_requests()], [f"/files/{self.library}"])
        self.assertEqual(self.run_setup("--check").returncode, 0)

    def test_a_cut_connection_is_resumed_within_a_run(self):
        self.cuts = 2
        self.assert_done(self.run_setup())
        size = len(self.files[self.library])
        asked = [asked for path, asked in self.file_requests() if path.endswith(self.library)]
        self.assertEqual(asked, [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"])

    def test_an_interrupted_download_is_resumed_by_the_next_run(self):
        self.cuts = 1000
        done = self.run_setup()
        self.assert_refused(done, "stopped at", "run `make setup` again")
        self.assert_nothing_half_written(kept_parts=[self.library])
        kept = os.path.getsize(self.path("downloads", self.library + ".part"))
        self.assertGreater(kept, len(self.files[self.library]) * 0.9)
        self.cuts = 0
        self.requests.clear()
        self.assert_done(self.run_setup())
        self.assertEqual(self.file_requests()[0], (f"/files/{self.library}", f"bytes={kept}-"))

    def test_a_server_without_ranges_starts_over(self):
        self.cuts, self.ranges = 1, False
        self.assert_done(self.run_setup())

    def test_a_part_that_is_too_long_starts_over(self):
        os.makedirs(self.path("downloads"))
        with open(self.path("downloads", self.library + ".part"), "wb") as file:
            file.write(bytes(len(self.files[self.library]) + 1))
        self.assert_done(self.run_setup())

    def test_wrong_content_is_refused_and_deleted(self):
        right = self.files[self.library]
        self.files[self.library] = bytes(len(right))
        self.assert_refused(self.run_setup(), self.library, "wrong content", self.pieces[0]["sha256"])
        self.assert_nothing_half_written()
        self.files[self.library] = right
        self.assert_done(self.run_setup())

    def test_no_network(self):
        done = self.run_setup("--index-url", "http://127.0.0.1:9/simple")
        self.assert_refused(done, "http://127.0.0.1:9/simple/torch/", "refused", "PIP_INDEX_URL", "PIP_FIND_LINKS")
        self.assert_nothing_half_written()

    def test_an_index_without_the_file(self):
        del self.files[self.library]
        self.assert_refused(self.run_setup(), f"lists no file {self.library}")
        self.assert_nothing_half_written()

    def test_the_index_of_pip_is_used(self):
        done = self.run_setup(index=False, env={"PIP_INDEX_URL": f"http://127.0.0.1:{self.port}/simple"})
        self.assert_done(done)

    def test_a_password_is_sent_and_not_printed(self):
        self.password = "Basic " + base64.b64encode(b"me:s/cret").decode()
        url = f"http://me:s%2Fcret@127.0.0.1:{self.port}/simple"
        del self.files[self.runtime]
        done = self.run_setup("--index-url", url)
        self.assert_refused(done, f"lists no file {self.runtime}")
        self.assertNotIn("cret", done.stdout + done.stderr)

    def test_a_folder_of_wheels_needs_no_network(self):
        links = os.path.join(self.folder, "wheels")
        os.makedirs(links)
        for name, content in self.files.items():
            with open(os.path.join(links, name), "wb") as file:
                file.write(content)
        done = self.run_setup("--index-url", "http://127.0.0.1:9/simple", "--find-links", links)
        self.assert_done(done)
        self.assertEqual(sorted(os.listdir(links)), sorted(self.files), "the folder is left as it was")
        self.assertEqual(self.requests, [])

    def test_too_little_disk_space_is_told_before_the_download(self):
        done = self.run_setup("--assume-free-bytes", "1000")
        self.assert_refused(done, "not enough disk space", "1.0 kB are free", "are needed")
        self.assert_nothing_half_written()
        self.assertEqual(self.file_requests(), [])

    def test_a_disk_that_fills_up_leaves_nothing_half_unpacked(self):
        os.makedirs(self.dest)
        mount = f'mount -t tmpfs -o size=300k none "{self.dest}" && '
        script = mount + '"$@"; code=$?; find "$0" -type f -size +0 >"$0.left"; exit $code'
        words = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
        if subprocess.run([*words, mount + "true"], capture_output=True, check=False).returncode != 0:
            print("SKIPPED this machine allows no mount in a namespace")
            self.skipTest("this machine allows no mount in a namespace")
        command = self.command("--assume-free-bytes", PLENTY)
        done = subprocess.run(
            [*words, script, self.dest, *command], env=self.environment(), capture_output=True, text=True, check=False
        )
        self.assert_refused(done, "the disk ran full", "free some space")
        with open(self.dest + ".left", encoding="utf-8") as file:
            left = file.read().split()
        self.assertEqual(left, [self.path("downloads", self.library)], "only the whole download is kept")

    def test_another_machine_is_refused(self):
        done = self.run_setup(machine="riscv64")
        self.assert_refused(done, "Linux riscv64 only", os.uname().machine)
        self.assertFalse(os.path.exists(self.dest))

    def test_an_old_c_library_is_refused(self):
        self.assert_refused(self.run_setup(minimum_glibc="9.0"), "glibc 9.0 or newer")

    def test_a_new_pin_replaces_the_old_files(self):
        self.assert_done(self.run_setup())
        newer = wheel({"torch/lib/libtorch_cpu.so": b"2", "torch/lib/new.so": b"2"})
        name = "torch-2.0-py3-none-any.whl"
        self.files[name] = newer
        self.pieces[0] = piece("libtorch", name, newer, package="torch", version="2.0", include=["torch/lib/"])
        done = self.run_setup()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(self.path("site/torch/lib"))), ["libtorch_cpu.so", "new.so"])
        self.assertFalse(os.path.exists(self.path("site/torch/build-version")), "files of the old pin are removed")

    def test_two_at_once(self):
        start = functools.partial(
            subprocess.Popen, self.command(), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        both = [start(), start()]
        said = [process.communicate(timeout=120) for process in both]
        self.assertEqual([process.returncode for process in both], [0, 0], said)
        self.assertEqual(len(self.file_requests()), 2, "each file was fetched once")

    def test_cuda_libraries_on_demand(self):
        library = self.files[self.library]
        self.pieces.append(
            piece("libtorch-cuda", self.library, library, package="torch", set="cuda", include=["torch/lib/libtorch_cuda"])
        )
        self.assert_done(self.run_setup())
        self.assertFalse(os.path.exists(self.path("site/torch/lib/libtorch_cuda.so")))
        self.assert_done(self.run_setup(env={"TORCH_CUDA": "1"}))
        self.assertTrue(os.path.exists(self.path("site/torch/lib/libtorch_cuda.so")))

    def test_a_libtorch_of_the_user(self):
        own = os.path.join(self.folder, "own")
        self.assert_refused(self.run_setup(env={"LIBTORCH": own}), f"LIBTORCH is set to {own}", "libtorch_cpu.so")
        for name in ("lib/libtorch_cpu.so", "lib/libc10.so", "include/torch/csrc/api/include/torch/torch.h"):
            os.makedirs(os.path.dirname(os.path.join(own, name)), exist_ok=True)
            open(os.path.join(own, name), "w", encoding="utf-8").close()
        for version, code in (("0.9", 1), ("1.0+cu130", 0)):
            with open(os.path.join(own, "build-version"), "w", encoding="utf-8") as file:
                file.write(version + "\n")
            done = self.run_setup(env={"LIBTORCH": own})
            self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(self.requests, [], "nothing is downloaded when LIBTORCH fits")

    def test_a_wrong_mpicc_is_refused(self):
        done = self.run_setup(tools=True, env={"MPICC": "/nonexistent/mpicc"})
        self.assert_refused(done, "MPICC is set to /nonexistent/mpicc")
        self.assert_nothing_half_written()

    def make_tools(self, answers):
        """A folder of programs that each print one line, and a folder with a libclang."""
        tools = os.path.join(self.folder, "bin")
        os.makedirs(tools)
        for name, answer in answers.items():
            with open(os.path.join(tools, name), "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\necho '{answer}' $ASM_NASM\n")
            os.chmod(file.name, 0o755)
        clang = os.path.join(self.folder, "clang")
        os.makedirs(clang)
        open(os.path.join(clang, "libclang-14.so.1"), "w", encoding="utf-8").close()
        return tools, clang

    def test_a_machine_without_nasm(self):
        tools, clang = self.make_tools({"mpicc": "cc -lmpi", "mpirun": "", "cmake": "cmake version 3.25.1"})
        for name in ("cc", "c++"):
            os.symlink(shutil.which(name), os.path.join(tools, name))
        # No apt-get on this PATH, so nasm cannot be brought either.
        env = {"PATH": tools, "LIBCLANG_PATH": clang}
        done = self.run_setup(tools=True, env=env)
        self.assert_done(done)
        self.assertIn("libjpeg-turbo is built without SIMD", done.stdout)
        cmake = [self.path("bin/cmake"), "--version"]
        said = subprocess.run(cmake, env={"ASM_NASM": "/x/nasm"}, capture_output=True, text=True, check=True).stdout
        self.assertEqual(said, "cmake version 3.25.1\n", "cmake does not see the nasm that is not there")
        self.assertIn("nothing to do", self.run_setup(tools=True, env=env).stdout)
        with open(os.path.join(tools, "nasm"), "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho NASM\n")
        os.chmod(file.name, 0o755)
        self.assertEqual(self.run_setup(tools=True, env=env).returncode, 0)
        self.assertEqual(os.path.realpath(self.path("bin/nasm")), file.name)
        self.assertEqual(os.path.realpath(self.path("bin/cmake")), os.path.join(tools, "cmake"))

    def test_tools_of_the_machine_are_used(self):
        answers = {"mpicc": "cc -lmpi", "mpirun": "", "cmake": "cmake version 3.25.1", "nasm": "NASM 2.16"}
        tools, clang = self.make_tools(answers)
        env = {"PATH": tools + os.pathsep + os.environ["PATH"], "LIBCLANG_PATH": clang}
        self.assert_done(self.run_setup(tools=True, env=env))
        for name in answers:
            self.assertEqual(os.path.realpath(self.path("bin", name)), os.path.join(tools, name))
        self.assertEqual(os.path.realpath(self.path("libclang")), clang)
        self.assertIn("nothing to do", self.run_setup(tools=True, env=env).stdout)
        other = os.path.join(tools, "other-mpicc")
        os.rename(os.path.join(tools, "mpicc"), other)
        self.assertIn("the MPI changed from", self.run_setup(tools=True, env={**env, "MPICC": other}).stdout)
        os.rename(other, os.path.join(tools, "mpicc"))
        self.assertEqual(self.run_setup(tools=True, env=env).returncode, 0)
        os.remove(os.path.join(tools, "cmake"))
        self.assertEqual(self.run_setup("--check", tools=True, env=env).returncode, 1, "a tool that went away is noticed")

    def test_a_python_without_venv(self):
        os.makedirs(os.path.join(self.folder, "shadow/venv"))
        with open(os.path.join(self.folder, "shadow/venv/__init__.py"), "w", encoding="utf-8") as file:
            file.write("raise ImportError('no venv here')\n")
        done = self.run_setup("--python", os.devnull, env={"PYTHONPATH": os.path.join(self.folder, "shadow")})
        self.assert_refused(done, "python3-venv")


if __name__ == "__main__":
    unittest.main(verbosity=2)
