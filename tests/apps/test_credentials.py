"""The certificates convince a TLS client of the right machine, and of no other."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fleke_flwr.apps.deploying.credentials import Pair, new_authority, new_identity, new_server


@pytest.fixture(scope="module")
def authority() -> Pair:
    return new_authority("hospitals")


def shake_hands(server: Pair, authority: Pair, host: str, folder: Path) -> str:
    """Return the TLS version that a client agrees on with the server, reached as ``host``."""
    for name, content in (("key", server.private), ("crt", server.public)):
        (folder / name).write_bytes(content)
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine.load_cert_chain(folder / "crt", folder / "key")
    theirs = ssl.create_default_context(cadata=authority.public.decode())
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, remote = socket.socketpair()

    def serve() -> None:
        try:
            with mine.wrap_socket(ours, server_side=True) as connection:
                connection.recv(1)
        except (ssl.SSLError, ConnectionError):
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with theirs.wrap_socket(remote, server_hostname=host) as connection:
            return str(connection.version())
    finally:
        remote.close()
        thread.join()


@pytest.mark.parametrize("host", ["fleke.example.org", "localhost", "127.0.0.1"])
def test_the_server_is_trusted_under_each_of_its_names(
    authority: Pair, host: str, tmp_path: Path
) -> None:
    server = new_server(authority, "fleke.example.org")
    assert shake_hands(server, authority, host, tmp_path) == "TLSv1.3"


def test_an_address_may_be_the_host(authority: Pair, tmp_path: Path) -> None:
    server = new_server(authority, "192.0.2.7")
    assert shake_hands(server, authority, "192.0.2.7", tmp_path) == "TLSv1.3"


def test_another_machine_is_not_trusted(authority: Pair, tmp_path: Path) -> None:
    server = new_server(authority, "fleke.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, authority, "evil.example.org", tmp_path)


def test_another_authority_is_not_trusted(authority: Pair, tmp_path: Path) -> None:
    server = new_server(new_authority("hospitals"), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        shake_hands(server, authority, "localhost", tmp_path)


def test_the_server_cannot_sign_for_others(authority: Pair, tmp_path: Path) -> None:
    server = new_server(authority, "localhost")
    forged = new_server(server, "localhost")
    chain = Pair(forged.private, forged.public + server.public)
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        shake_hands(chain, authority, "localhost", tmp_path)


def test_keys_belong_together_and_are_on_the_curve_that_flower_takes(authority: Pair) -> None:
    certificate = x509.load_pem_x509_certificate(authority.public)
    signer = load_pem_private_key(authority.private, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    assert certificate.public_key() == signer.public_key()
    identity = new_identity("hospital-1")
    key = load_ssh_private_key(identity.private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    assert key.public_key() == load_ssh_public_key(identity.public)
    assert identity.public.endswith(b" hospital-1\n")


def test_no_two_keys_are_the_same() -> None:
    assert len({new_identity("same").public for _ in range(3)}) == 3
