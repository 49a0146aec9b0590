"""Certificates and keys of a deployment, made with the ``cryptography`` library.

A private certificate authority signs the SuperLink's certificate, by which SuperNodes and users
know that they talk to the right machine. A SuperNode proves who it is with a key of its own, whose
public half is registered at the SuperLink (Flower 1.41, "SuperNode authentication").
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 825
_LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A private key and what may be shown of it, both as the text of their files.

    Parameters
    ----------
    private : bytes
        The key, without a password.
    public : bytes
        The certificate, or the public key.
    """

    private: bytes
    public: bytes


def new_authority(name: str) -> Pair:
    """Make a certificate authority that signs servers only, valid for ten years.

    Parameters
    ----------
    name : str
        What the deployment is called.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{name} certificate authority")
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    return Pair(_pkcs8(key), _pem(certificate))


def new_server(authority: Pair, host: str) -> Pair:
    """Make a server's key and certificate, valid for a little over two years.

    Parameters
    ----------
    authority : Pair
        Signs.
    host : str
        Name or address by which the others reach the server. ``localhost`` and ``127.0.0.1`` are
        added, since Flower's own helpers talk to it from the same machine.
    """
    issuer = x509.load_pem_x509_certificate(authority.public)
    signer = serialization.load_pem_private_key(authority.private, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # new_authority makes no other
    key = ec.generate_private_key(ec.SECP384R1())
    names = [_general_name(text) for text in dict.fromkeys((host, *_LOOPBACK))]
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(_name(host), issuer.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA384())
    )
    return Pair(_pkcs8(key), _pem(certificate))


def new_identity(name: str) -> Pair:
    """Make a SuperNode's ECDSA key on the curve P-384, in OpenSSH's format.

    Parameters
    ----------
    name : str
        Is the comment of the public key.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return Pair(private, public + b" " + name.encode() + b"\n")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # The clocks of two organisations differ.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    # X.520 allows a common name 64 characters; clients look at the alternative names anyway.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
