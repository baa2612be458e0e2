"""A small backup client of our own, for the demo where restic is not installed. It is not restic.

It speaks the same REST protocol to the same server (objects named by the SHA-256 of their bytes), but keeps
a plain format of its own, which restic cannot read: files are cut into pieces, one object each; an index
names the pieces; a snapshot is JSON. **It does not encrypt**, does not compress, and finds no common parts
inside of files that moved. Do not keep your backups with it.

Like restic it tries again when the server is away: with growing pauses, up to a bound. An upload that was
cut is sent anew; the server says 200 to an object that it has already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaseha.lab.small_wire import ClientError, NotThereError, Wire

FORMAT: Final = "leaseha-small-1"
PIECE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backup is; `done_bytes` counts what the server has confirmed or had already."""

    path: str
    done_bytes: int
    total_bytes: int


class SmallClient:
    """Backs up, restores and compares one directory tree. Every method raises ClientError."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def backup(self, source: Path, progress: Callable[[Progress], None] = lambda _: None) -> str:
        """Store all files below `source`; returns the snapshot's name.

        Pieces come first, then the index, then the snapshot: whoever finds a snapshot finds all of it.
        """
        self._initialise()
        known = set(self._wire.names("data"))
        paths = sorted(
            path for path in source.rglob("*") if path.is_symlink() or path.is_file() or path.is_dir()
        )
        total = sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())
        done = 0
        sizes: dict[str, int] = {}
        files: list[dict[str, Any]] = []
        for path in paths:
            name = path.relative_to(source).as_posix()
            if path.is_symlink():
                files.append({"path": name, "kind": "link", "to": str(path.readlink())})
                continue
            if path.is_dir():
                files.append({"path": name, "kind": "folder"})
                continue
            pieces: list[str] = []
            for piece in _pieces(path):
                digest = hashlib.sha256(piece).hexdigest()
                if digest not in known:
                    self._wire.put(f"data/{digest}", piece)
                    known.add(digest)
                sizes[digest] = len(piece)
                pieces.append(digest)
                done += len(piece)
                progress(Progress(name, done, total))
            files.append(
                {"path": name, "kind": "file", "mode": path.stat().st_mode & 0o777, "pieces": pieces}
            )
        index = self._put_json("index", {"format": FORMAT, "pieces": sizes})
        number = len(self._wire.names("snapshots"))
        return self._put_json(
            "snapshots", {"format": FORMAT, "number": number, "index": index, "files": files}
        )

    def restore(self, target: Path, snapshot: str = "latest") -> int:
        """Write all files of a snapshot below `target`, each piece checked. Returns how many files."""
        count = 0
        for entry in self._snapshot(snapshot)["files"]:
            path = _below(target, entry["path"])
            if entry["kind"] == "folder":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            count += 1
            if entry["kind"] == "link":
                path.unlink(missing_ok=True)
                path.symlink_to(entry["to"])
                continue
            with path.open("wb") as file:
                for digest in entry["pieces"]:
                    file.write(self._piece(digest))
            path.chmod(entry["mode"])
        return count

    def compare(self, source: Path, snapshot: str = "latest") -> list[str]:
        """What differs between `source` and a snapshot, a sentence each; every piece is fetched and hashed."""
        entries = {entry["path"]: entry for entry in self._snapshot(snapshot)["files"]}
        found = {path.relative_to(source).as_posix() for path in source.rglob("*")}
        differences = [f"{path}: not in the snapshot" for path in sorted(found - entries.keys())]
        for name, entry in sorted(entries.items()):
            if name not in found:
                differences.append(f"{name}: only in the snapshot")
            elif not self._same(_below(source, name), entry):
                differences.append(f"{name}: differs")
        return differences

    def snapshots(self) -> list[str]:
        """Names, oldest first."""
        ordered = sorted(
            (self._get_json(f"snapshots/{name}")["number"], name) for name in self._wire.names("snapshots")
        )
        return [name for _, name in ordered]

    def _same(self, path: Path, entry: dict[str, Any]) -> bool:
        if entry["kind"] == "link":
            return path.is_symlink() and str(path.readlink()) == entry["to"]
        if path.is_symlink() or entry["kind"] == "folder":
            return path.is_dir() and not path.is_symlink()
        with path.open("rb") as file:
            for digest in entry["pieces"]:
                piece = self._piece(digest)
                if file.read(len(piece)) != piece:
                    return False
            return file.read(1) == b""

    def _initialise(self) -> None:
        """Nothing is written over: a repository of another program stays as it is."""
        try:
            config = self._wire.get("config")
        except NotThereError:
            self._wire.create()
            self._wire.put("config", json.dumps({"format": FORMAT}).encode())
            return
        if config != json.dumps({"format": FORMAT}).encode():
            raise ClientError("there is a repository of another program (restic?); choose another name")

    def _snapshot(self, name: str) -> dict[str, Any]:
        if name == "latest":
            names = self.snapshots()
            if not names:
                raise ClientError("there is no snapshot")
            name = names[-1]
        return self._get_json(f"snapshots/{name}")

    def _put_json(self, kind: str, value: dict[str, Any]) -> str:
        body = json.dumps(value, separators=(",", ":")).encode()
        name = hashlib.sha256(body).hexdigest()
        self._wire.put(f"{kind}/{name}", body)
        return name

    def _get_json(self, path: str) -> dict[str, Any]:
        body = self._wire.get(path)
        if hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
            raise ClientError(f"{path}: the bytes are not those that were stored")
        value = json.loads(body)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ClientError(f"{path} is not of this client's format")
        return value

    def _piece(self, digest: str) -> bytes:
        piece = self._wire.get(f"data/{digest}")
        if hashlib.sha256(piece).hexdigest() != digest:
            raise ClientError(f"data/{digest}: the bytes are not those that were stored")
        return piece


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _below(root: Path, name: str) -> Path:
    """A name from a snapshot must not lead out of the folder. Raises ClientError."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ClientError(f"the snapshot names a path outside of its folder: {name!r}")
    if any(
        parent.is_symlink()
        for parent in (root / path).parents
        if parent.is_relative_to(root) and parent != root
    ):
        raise ClientError(f"the snapshot names a path through a link: {name!r}")
    return root / path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leaseha.lab.small_client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("backup", "store all files below --source"),
        ("restore", "write a snapshot's files below --target"),
        ("verify", "compare a snapshot with --source, fetching every piece"),
    ):
        sub = verbs.add_parser(verb, help=what)
        sub.add_argument("--repo", required=True, help="http://VIP:8000/name")
        sub.add_argument(
            "--retry", type=float, default=120.0, metavar="S", help="give up after so long without success"
        )
        sub.add_argument(
            "--timeout", type=float, default=10.0, metavar="S", help="longest silence of the server"
        )
        if verb == "restore":
            sub.add_argument("--target", type=Path, required=True)
        else:
            sub.add_argument("--source", type=Path, required=True)
        if verb == "backup":
            sub.add_argument(
                "--limit-upload", type=int, default=0, metavar="KIB_S", help="KiB/s; 0: no limit"
            )
        else:
            sub.add_argument("--snapshot", default="latest")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done and equal, 1 failed or different, 2 bad arguments."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ClientError, OSError) as trouble:
        print(f"failed: {trouble}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    wire = Wire(
        options.repo,
        timeout_s=options.timeout,
        retry_s=options.retry,
        limit_bytes_s=getattr(options, "limit_upload", 0) * 1024,
        retrying=lambda why: print(why, file=sys.stderr, flush=True),
    )
    client = SmallClient(wire)
    if options.verb == "backup":
        if not options.source.is_dir():
            print(f"failed: {options.source} is not a directory", file=sys.stderr)
            return 2
        name = client.backup(options.source)
        print(f"snapshot {name[:8]} stored, {wire.retries} retries (small client: not restic, not encrypted)")
        return 0
    if options.verb == "restore":
        print(f"{client.restore(options.target, options.snapshot)} files restored to {options.target}")
        return 0
    differences = client.compare(options.source, options.snapshot)
    for difference in differences:
        print(difference)
    print("equal" if not differences else f"{len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
