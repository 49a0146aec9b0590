"""Lay out a deployment: certificates, keys, connection and start scripts, one folder per owner."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from rich.console import Console

from fleke_flwr.apps.deploying import scripts
from fleke_flwr.apps.deploying.credentials import Pair, new_authority, new_identity, new_server
from fleke_flwr.errors import ConfigError
from fleke_flwr.values import comma_list

NODE_PORT = 9094
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAKEN = ("flower", "superlink")


@dataclass(frozen=True)
class Layout:
    """Where the files of a deployment lie.

    Parameters
    ----------
    root : Path
        The directory that ``fleke deploy init`` was given; its name is the federation's.
    nodes : tuple[str, ...]
        Names of the SuperNodes, in the order of their partitions.
    host : str
        Name or address of the SuperLink.
    port : int
        Its port.
    """

    root: Path
    nodes: tuple[str, ...]
    host: str
    port: int

    @property
    def name(self) -> str:
        """What the connection is called in Flower's configuration."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.name).strip("-")
        # [superlink] default = ... is a setting of Flower's, no connection.
        return name if name not in ("", "default") else "federation"

    @property
    def address(self) -> str:
        """Host and port of the SuperLink, as Flower takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> Path:
        """Certificate of the authority, which everybody gets; its key lies beside it."""
        return self.root / "ca.crt"

    @property
    def server(self) -> Path:
        """Certificate of the SuperLink; its key lies beside it."""
        return self.root / "superlink" / "server.crt"

    def node(self, name: str) -> Path:
        """Return the folder that a SuperNode's organisation gets."""
        return self.root / name


def init(layout: Layout, console: Console) -> None:
    """Make everything that a deployment starts with, and say what to type next.

    Raises
    ------
    ConfigError
        If a name is of no use, or the directory holds keys already: none is ever overwritten.
    """
    _check(layout)
    _refuse_existing(layout)
    authority = new_authority(layout.name)
    _write_pair(authority, layout.root / "ca.key", layout.authority)
    server = new_server(authority, layout.host)
    _write_pair(server, layout.server.with_suffix(".key"), layout.server)
    for name in layout.nodes:
        folder = layout.node(name)
        _write_pair(new_identity(name), folder / "node.key", folder / "node.pub")
        (folder / "ca.crt").write_bytes(authority.public)
    _write_scripts(layout)
    _write_connection(layout)
    console.print(_next_steps(layout), markup=False, highlight=False, soft_wrap=True)


def read_nodes(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list.

    Raises
    ------
    ConfigError
        If there is none, one stands twice, or one is no plain name of a folder.
    """
    names = tuple(comma_list(text))
    if not names:
        raise ConfigError("--nodes: no name; give one per SuperNode, such as hospital-1,hospital-2")
    for name in names:
        if not _NODE.fullmatch(name) or name.startswith("ca.") or name in _TAKEN:
            raise ConfigError(
                f"--nodes: {name!r} cannot be the name of a folder here; use letters, digits, "
                f"'-', '_' and '.', and not {', '.join(_TAKEN)} or ca.*"
            )
        if names.count(name) > 1:
            raise ConfigError(f"--nodes: {name!r} stands twice; every SuperNode needs its own name")
    return names


def _check(layout: Layout) -> None:
    if not _NAME.fullmatch(layout.host) and not _is_address(layout.host):
        raise ConfigError(
            f"--host {layout.host!r}: give the name or address by which the SuperNodes reach the "
            "SuperLink, without http:// and without a port"
        )
    if layout.root.exists() and not layout.root.is_dir():
        raise ConfigError(f"{layout.root}: is a file; name a directory")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refuse_existing(layout: Layout) -> None:
    found = sorted(layout.root.glob("*.key")) + sorted(layout.root.glob("*/*.key"))
    if found:
        names = ", ".join(str(path.relative_to(layout.root)) for path in found)
        raise ConfigError(
            f"{layout.root}: holds keys already ({names}), and a running federation may depend on "
            "them; name another directory, or remove this one if nobody uses it"
        )


def _write_pair(pair: Pair, private: Path, public: Path) -> None:
    for folder in (private.parent, public.parent):
        folder.mkdir(parents=True, exist_ok=True)
    # Never readable for others, not even for a moment; never in the place of another key.
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pair.private)
    public.write_bytes(pair.public)


def _write_scripts(layout: Layout) -> None:
    written = {layout.root / "superlink.sh": scripts.superlink(layout.host, layout.port)}
    written[layout.root / "register.sh"] = scripts.register(layout.name, layout.nodes)
    for place, name in enumerate(layout.nodes):
        written[layout.node(name) / "supernode.sh"] = scripts.supernode(
            layout.address, NODE_PORT + place, place, len(layout.nodes)
        )
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


def _write_connection(layout: Layout) -> None:
    home = layout.root / "flower"
    home.mkdir(exist_ok=True)
    connection = {"address": layout.address, "root-certificates": str(layout.authority)}
    content = {"superlink": {"default": layout.name, layout.name: connection}}
    (home / "config.toml").write_text(tomli_w.dumps(content), encoding="utf-8")


def _next_steps(layout: Layout) -> str:
    root = shlex.quote(str(layout.root))
    nodes = "\n".join(
        f"  {root}/{name}/supernode.sh EDITS.jsonl MODEL_DIRECTORY RESULTS_DIRECTORY"
        for name in layout.nodes
    )
    return f"""federation {layout.name}: {len(layout.nodes)} SuperNodes, SuperLink {layout.address}

Start the SuperLink, and leave it running:
  {root}/superlink.sh

Tell it which SuperNodes may come (again after every restart without DATABASE):
  {root}/register.sh

Start every SuperNode where its records are; it needs its own folder only:
{nodes}

Run an experiment:
  FLWR_HOME={root}/flower fleke run CONFIG --federation {layout.name} \
clients={len(layout.nodes)} data.path=

Keep {root}/ca.key off the SuperLink; whoever holds it can pretend to be the SuperLink."""
