"""Brings pinned wheels: download (resumed where it stopped), check, unpack, stamp.

A piece is there when its stamp names the same pin and every file in the stamp's list exists.
A download grows in `<name>.part` and takes its name when whole; an unpacked wheel lies in a
folder of its own until all of it is on disk, then its files are moved into place, then the stamp
is written. So nothing half-written is ever taken for a finished piece.
"""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import zipfile

from errors import SetupError, disk_full, size
from index import copy_local, reason
from progress import Progress

CHUNK = 1 << 20
ATTEMPTS = 5
# What file systems and tools need beyond the bytes counted here.
SPARE_BYTES = 64 << 20


class Store:
    """The folder that set-up fills."""

    def __init__(self, dest, index, free_bytes=None, retry_s=2.0):
        self.dest = dest
        self.index = index
        self.retry_s = retry_s
        self._free_bytes = free_bytes
        self.downloads = os.path.join(dest, "downloads")
        self.stamps = os.path.join(dest, "stamps")

    def missing(self, pieces):
        """Those of `pieces` that are not in place."""
        return [piece for piece in pieces if not self.present(piece)]

    def present(self, piece):
        """Whether the piece's stamp names this pin and all its files exist."""
        stamp = self.read_stamp(piece["name"])
        if not stamp or stamp["key"] != key_of(piece):
            return False
        root = os.path.join(self.dest, piece["into"])
        return all(os.path.lexists(os.path.join(root, name)) for name in stamp["files"])

    def read_stamp(self, name):
        """The stamp called `name`, or None."""
        try:
            with open(os.path.join(self.stamps, name + ".json"), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def write_stamp(self, name, content):
        """Writes a stamp in one step."""
        os.makedirs(self.stamps, exist_ok=True)
        path = os.path.join(self.stamps, name + ".json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(path + ".part", path)

    def bring(self, pieces):
        """Downloads and unpacks `pieces`. Returns the bytes that came over the network."""
        if not pieces:
            return 0
        files = {piece["file"]: piece for piece in pieces}
        still = {name: self._remaining(piece) for name, piece in files.items()}
        self._check_space(sum(still.values()) + sum(piece["unpacked"] for piece in pieces))
        os.makedirs(self.downloads, exist_ok=True)
        total = sum(piece["size"] for piece in files.values())
        network = sum(count for name, count in still.items() if not self.index.local_file(name))
        print(
            f"set-up: {len(files)} files, {size(total)} ({size(network)} of it to download), "
            f"{size(sum(piece['unpacked'] for piece in pieces))} unpacked, into {self.dest}",
            flush=True,
        )
        progress = Progress(total)
        fetched = 0
        for name, piece in files.items():
            progress.start(name)
            fetched += self._fetch(piece, progress)
            for part in pieces:
                if part["file"] == name:
                    self._unpack(part)
            os.remove(os.path.join(self.downloads, name))
        progress.finish()
        return fetched

    def _remaining(self, piece):
        path = os.path.join(self.downloads, piece["file"])
        for candidate in (path, path + ".part"):
            if os.path.exists(candidate):
                return max(piece["size"] - os.path.getsize(candidate), 0)
        return piece["size"]

    def _check_space(self, need):
        os.makedirs(self.dest, exist_ok=True)
        free = self._free_bytes if self._free_bytes is not None else shutil.disk_usage(self.dest).free
        if free < need + SPARE_BYTES:
            raise SetupError(
                f"not enough disk space in {self.dest}: {size(free)} are free, {size(need + SPARE_BYTES)} are needed. "
                "Free some space, or make .deps a link to a folder on a larger disk; nothing was downloaded"
            )

    def _fetch(self, piece, progress):
        """Leaves the whole, checked wheel in the downloads folder; returns the bytes fetched."""
        path = os.path.join(self.downloads, piece["file"])
        if os.path.exists(path):
            progress.add(piece["size"])
            return 0
        fetched = 0
        local = self.index.local_file(piece["file"])
        if local:
            if os.path.exists(path + ".part"):
                os.remove(path + ".part")
            copy_local(local, path + ".part")
            progress.add(piece["size"])
        else:
            fetched = self._download(piece, path + ".part", progress)
        found = sha256_of(path + ".part")
        if found != piece["sha256"]:
            os.remove(path + ".part")
            raise SetupError(
                f"{piece['file']} has the wrong content: sha256 {found}, expected {piece['sha256']} "
                f"(from {local or 'the package index'}). It was deleted. Run `make setup` again; if it stays so, "
                "the index or a proxy on the way hands out another file"
            )
        os.replace(path + ".part", path)
        return fetched

    def _download(self, piece, part, progress):
        """Fetches into `part`, going on where an earlier attempt or run stopped."""
        url = self.index.find(piece["package"], piece["file"])
        start = os.path.getsize(part) if os.path.exists(part) else 0
        progress.add(start)
        failure = None
        for attempt in range(ATTEMPTS):
            have = os.path.getsize(part) if os.path.exists(part) else 0
            if have == piece["size"]:
                return have - start
            if have > piece["size"]:
                os.remove(part)
                progress.add(-have)
                have = start = 0
            if attempt:
                time.sleep(self.retry_s * attempt)
            try:
                self._append(url, part, have, piece["size"], progress)
                failure = None
            except (OSError, http.client.HTTPException) as error:
                full = disk_full(part, error)
                if full:
                    raise full from error
                failure = error
        have = os.path.getsize(part) if os.path.exists(part) else 0
        if have == piece["size"]:
            return have - start
        raise SetupError(
            f"downloading {piece['file']} stopped at {size(have)} of {size(piece['size'])} after {ATTEMPTS} attempts"
            f" ({reason(failure) if failure else 'the server closed the connection early'}). "
            "What came is kept: run `make setup` again to go on from there"
        )

    def _append(self, url, part, have, whole, progress):
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            answer = self.index.open(url, headers)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                os.remove(part)
                progress.add(-have)
            raise
        with answer:
            resumed = have and answer.status == 206
            if have and not resumed:
                progress.add(-have)
                have = 0
            with open(part, "ab" if resumed else "wb") as file:
                while have <= whole:
                    block = answer.read(CHUNK)
                    if not block:
                        break
                    file.write(block)
                    have += len(block)
                    progress.add(len(block))

    def _unpack(self, piece):
        """Unpacks into a folder aside, moves the files into place, then writes the stamp."""
        aside = os.path.join(self.dest, f"unpacking-{piece['name']}")
        shutil.rmtree(aside, ignore_errors=True)
        root = os.path.join(self.dest, piece["into"])
        try:
            names = _extract(os.path.join(self.downloads, piece["file"]), piece, aside)
            for name, content in piece.get("write", {}).items():
                with open(os.path.join(aside, name), "w", encoding="utf-8") as file:
                    file.write(content + "\n")
                names.append(name)
            old = self.read_stamp(piece["name"])
            for name in names:
                target = os.path.join(root, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.replace(os.path.join(aside, name), target)
            for name in set(old["files"] if old else []) - set(names):
                if os.path.lexists(os.path.join(root, name)):
                    os.remove(os.path.join(root, name))
            self.write_stamp(piece["name"], {"key": key_of(piece), "files": names})
        except OSError as error:
            full = disk_full(root, error)
            raise (full or SetupError(f"cannot unpack {piece['file']} into {root}: {error}")) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def key_of(piece):
    """What makes this piece this piece: the pinned file and which members of it are wanted."""
    wanted = json.dumps([piece.get("include"), piece.get("exclude"), piece.get("write"), piece["into"]])
    return f"{piece['version']} {piece['sha256']} {hashlib.sha256(wanted.encode()).hexdigest()[:16]}"


def sha256_of(path):
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(CHUNK), b""):
            digest.update(block)
    return digest.hexdigest()


def _extract(wheel, piece, aside):
    """Writes the wanted members under `aside` and returns their names."""
    names = []
    include = tuple(piece.get("include", [""]))
    exclude = tuple(piece.get("exclude", []))
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(include) or member.filename.startswith(exclude):
                continue
            name = _installed_name(member.filename)
            if name.startswith("/") or ".." in name.split("/"):
                raise SetupError(f"{piece['file']} holds a member outside its folder: {member.filename}")
            target = os.path.join(aside, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            mode = (member.external_attr >> 16) & 0o777
            os.chmod(target, (mode | 0o600) if mode else 0o644)
            names.append(name)
    if not names:
        raise SetupError(f"{piece['file']} holds none of the members that are wanted: {include}")
    return names


def _installed_name(member):
    """Where a member goes: `<name>.data/{data,platlib,purelib,scripts}/x` is installed as `x`."""
    head, _, rest = member.partition("/")
    if not head.endswith(".data"):
        return member
    scheme, _, name = rest.partition("/")
    return "bin/" + name if scheme == "scripts" else name
