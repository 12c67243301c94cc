"""
Certificates for tests, made when they are needed: authorities, and what they sign for servers and
clients, good or with one thing wrong.

    authority = Authority(tmp_path)
    server = authority.server()                     # for localhost, 127.0.0.1 and ::1
    client = authority.client("trader-7")
    stockd(tls={"certificate": server.certificate, "key": server.key,
                "client_ca": authority.certificate})

Keys are of P-256, which cost next to nothing to make, and can be read by their owner alone.
"""

import datetime
import ipaddress
import os
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
DAY = datetime.timedelta(days=1)


class Identity(NamedTuple):
    """The files of a certificate (its chain included, without the root) and of its key."""

    certificate: Path
    key: Path

    def pems(self):
        """(key, certificate), as grpcio takes them."""
        return self.key.read_bytes(), self.certificate.read_bytes()


def replace_file(path, content, mode):
    """In one step, so that nobody who reads it meanwhile sees half of it."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
    os.chmod(new, mode)
    os.replace(new, path)


def subject_of(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def alternative_name(name):
    """What kind of name it is shows in the name itself."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    return x509.DNSName(name)


def days_from_now(begins, ends):
    now = datetime.datetime.utcnow()
    return now + begins * DAY, now + ends * DAY


def pem_of(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Authority:
    """
    An authority, its certificate in the file `certificate`. With `parent` it is one between that
    and what it signs, and stands in the chain of whatever it signs.
    """

    def __init__(self, folder, name="authority", parent=None):
        self.folder = Path(folder)
        self.name = name
        self.parent = parent
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = subject_of(f"test {name}")
        signer = parent or self
        begins, ends = days_from_now(-1, 30)
        self._own = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name(signer._subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(signer._key, hashes.SHA256())
        )
        self.certificate = self.folder / f"{name}.crt"
        replace_file(self.certificate, pem_of(self._own), 0o644)

    def pem(self):
        return self.certificate.read_bytes()

    def intermediate(self, name="intermediate"):
        return Authority(self.folder, name, parent=self)

    def _chain(self):
        """Its own certificate and those above it, without the root, which nobody needs to send."""
        authority, chain = self, b""
        while authority.parent:
            chain += pem_of(authority._own)
            authority = authority.parent
        return chain

    def issue(self, file_name, names, common_name, usage, valid=(-1, 30), key=None):
        """
        Signs a certificate for `names` and writes FILE_NAME.crt and FILE_NAME.key, in one step each
        where they exist already. `valid`: from when to when, in days from now. `key`: not a new one
        of P-256 but this.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        begins, ends = days_from_now(*valid)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject_of(common_name))
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([alternative_name(name) for name in names]),
                critical=False,
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        identity = Identity(self.folder / f"{file_name}.crt", self.folder / f"{file_name}.key")
        replace_file(identity.key, key_pem(key), 0o600)
        replace_file(identity.certificate, pem_of(certificate) + self._chain(), 0o644)
        return identity

    def server(self, file_name="server", names=LOCAL_NAMES, valid=(-1, 30), key=None):
        """For the DNS names and IP addresses among `names`."""
        return self.issue(
            file_name,
            names,
            names[0] if names else "nobody",
            ExtendedKeyUsageOID.SERVER_AUTH,
            valid,
            key,
        )

    def client(self, common_name="client", file_name=None, names=(), valid=(-1, 30)):
        """`names`: DNS names, URIs (with "://"), email addresses and IP addresses."""
        return self.issue(
            file_name or common_name, names, common_name, ExtendedKeyUsageOID.CLIENT_AUTH, valid
        )

    def expired(self, file_name="expired", names=LOCAL_NAMES):
        """A server's that was good until yesterday."""
        return self.server(file_name, names, valid=(-30, -1))

    def not_yet_valid(self, file_name="not-yet", names=LOCAL_NAMES):
        """A server's that will be good from tomorrow on."""
        return self.server(file_name, names, valid=(1, 30))

    def wrong_name(self, file_name="wrong-name"):
        """A server's that is not for this machine."""
        return self.server(file_name, ("elsewhere.example",))


def self_signed(folder, file_name="self-signed", names=LOCAL_NAMES, valid=(-1, 30)):
    """A server's that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    begins, ends = days_from_now(*valid)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject_of(names[0]))
        .issuer_name(subject_of(names[0]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectAlternativeName([alternative_name(name) for name in names]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    identity = Identity(Path(folder) / f"{file_name}.crt", Path(folder) / f"{file_name}.key")
    replace_file(identity.key, key_pem(key), 0o600)
    replace_file(identity.certificate, pem_of(certificate), 0o644)
    return identity
