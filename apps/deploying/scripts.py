"""The start scripts of ``fleke deploy init``: plain commands that find their own folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEAD = """#!/bin/sh
{about}
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export FLWR_HOME="$here/flower" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
"""


def superlink(host: str, port: int) -> str:
    """Return the script that starts the SuperLink.

    Parameters
    ----------
    host : str
        By which the others reach it. It listens there alone on loopback, else on all addresses.
    port : int
        Its only port.
    """
    bind = host if host in _LOOPBACK else "0.0.0.0"
    about = """# Start the SuperLink. It runs the ServerApp, so fleke-flwr must be installed here.
#   BIND      address to listen on
#   DATABASE  file that registered SuperNodes and runs survive a restart in; in memory without it"""
    return f"""{_HEAD.format(about=about)}
exec flower-superlink \\
    --host "${{BIND:-{bind}}}" --port {port} \\
    --ssl-ca-certfile "$here/ca.crt" \\
    --ssl-certfile "$here/superlink/server.crt" \\
    --ssl-keyfile "$here/superlink/server.key" \\
    --enable-supernode-auth \\
    --disable-runtime-dependency-installation \\
    ${{DATABASE:+--database "$DATABASE"}}
"""


def register(federation: str, nodes: Sequence[str]) -> str:
    """Return the script that registers the SuperNodes' public keys at the running SuperLink."""
    about = "# Tell the running SuperLink which SuperNodes may connect, by their public keys."
    lines = "\n".join(
        f'flwr supernode register "$here"/{shlex.quote(name)}/node.pub '
        f"{federation} --name {shlex.quote(name)}"
        for name in nodes
    )
    return f"""{_HEAD.format(about=about)}
tries=0
until flwr list {federation} > /dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries -ge 20 ]; then
        flwr list {federation}
        exit 1
    fi
    sleep 1
done
{lines}
flwr supernode list {federation}
"""


def supernode(address: str, port: int, partition: int, partitions: int) -> str:
    """Return the script that starts one SuperNode beside its records.

    Parameters
    ----------
    address : str
        Host and port of the SuperLink.
    port : int
        Of this machine, for Flower's own helpers, on loopback.
    partition, partitions : int
        The client's number and how many there are.
    """
    about = """# Start this organisation's SuperNode. Records and model stay on this machine.
#   supernode.sh EDITS.jsonl MODEL_DIRECTORY RESULTS_DIRECTORY
#   PORT     local port of Flower's helpers; every SuperNode of a machine needs its own
#   TAG_KEY  file with the secret that all SuperNodes of the federation share, if there is one"""
    return f"""{_HEAD.format(about=about)}
if [ $# -ne 3 ]; then
    echo "usage: $0 EDITS.jsonl MODEL_DIRECTORY RESULTS_DIRECTORY" >&2
    exit 2
fi
mkdir -p "$3"
# Absolute, since a node's app runs in a directory of Flower's choice.
edits=$(realpath "$1") model=$(realpath "$2") results=$(realpath "$3")
node="partition-id={partition} num-partitions={partitions}"
node="$node data-path='$edits' model-path='$model' results-path='$results'"
if [ -n "${{TAG_KEY:-}}" ]; then
    node="$node tag-key='$(cat "$TAG_KEY")'"
fi
export HF_HUB_OFFLINE=1
exec flower-supernode \\
    --superlink {address} \\
    --root-certificates "$here/ca.crt" \\
    --auth-supernode-private-key "$here/node.key" \\
    --port "${{PORT:-{port}}}" \\
    --node-config "$node"
"""
