"""Fetches the jars of a lock file by their coordinates and checks every one against its SHA-256.

Usage: fetch_jars.py LOCK_FILE TARGET_FOLDER. A line of the lock file: `sha256 folder
group:artifact:extension:version`.
"""

import contextlib
import hashlib
import io
import os
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from maven_artifact.artifact import Artifact
from maven_artifact.downloader import Downloader

# Small files: what counts is how many requests are under way.
PARALLEL_DOWNLOADS = 8
ATTEMPTS = 3


class LockedJar(NamedTuple):
    sha256: str
    folder: str
    group: str
    artifact: str
    extension: str
    version: str

    @classmethod
    def parse(cls, line: str) -> "LockedJar":
        sha256, folder, coordinates = line.split()
        return cls(sha256, folder, *coordinates.split(":"))

    @property
    def path(self) -> Path:
        return Path(self.folder, f"{self.artifact}-{self.version}.{self.extension}")


def fetch(jar: LockedJar, target: Path) -> None:
    path = target / jar.path
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            artifact = Artifact(jar.group, jar.artifact, jar.version, extension=jar.extension)
            Downloader().download(artifact, filename=str(path))
            break
        except Exception:
            if attempt == ATTEMPTS:
                raise
            time.sleep(attempt)
    if hashlib.sha256(path.read_bytes()).hexdigest() != jar.sha256:
        path.unlink()
        raise SystemExit(f"{jar.group}:{jar.artifact}:{jar.version} is not the file that jars.lock names")


def trust_system_certificates() -> None:
    """Has downloads trust what the system trusts, e.g. a company's proxy, where nothing else is said."""
    system = ssl.get_default_verify_paths().cafile
    for bundle in (os.environ.get("SSL_CERT_FILE"), system, "/etc/ssl/certs/ca-certificates.crt"):
        if bundle and os.path.exists(bundle):
            os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)
            return


def main(lock_file: str, target: str) -> None:
    jars = [
        LockedJar.parse(line) for line in Path(lock_file).read_text().splitlines() if line and not line.startswith("#")
    ]
    trust_system_certificates()
    # The library prints each address that it reads.
    with contextlib.redirect_stdout(io.StringIO()), ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        for _ in pool.map(lambda jar: fetch(jar, Path(target)), jars):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
