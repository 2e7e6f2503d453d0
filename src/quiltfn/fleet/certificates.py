"""The fleet's own certificates: an authority, in the fleet's file, and one for each node.

A node's certificate names it (subject alternative name), and its key may only sign TLS handshakes,
as server and as client. Keys use the curve P-256.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 10 * 365
# Certificates are valid from this long before their creation, for nodes whose clocks are slow.
EARLIER = timedelta(hours=25)
DAY_S = 86_400


class BadCertificate(ValueError):
    """An unusable certificate or key: its field, and a sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(f"{field} {sentence}")


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


def make_authority(fleet_id: str, now: float) -> Credential:
    """Create the authority of a fleet, valid for ten years. `now`: Unix seconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(f"quiltfn fleet {fleet_id}")
    made = (
        _begun(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_key_id(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _as_pem(made, key)


def make_node_certificate(authority: Credential, name: str, now: float, days: int) -> Credential:
    """The certificate of the node with that name. Raises `BadCertificate` for a bad authority."""
    above, above_key = read_pair("ca_certificate", authority, "ca_key")
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    of_above = x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key())
    made = (
        _begun(_named(name), above.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(_key_id(key.public_key()), critical=False)
        .add_extension(of_above, critical=False)
        .sign(above_key, hashes.SHA256())
    )
    return _as_pem(made, key)


def check_node_certificate(authority: str, own: Credential, name: str, now: float) -> float:
    """Return the remaining days of the certificate. Raises `BadCertificate` if it is not the
    authority's, not of that name, not valid now, or does not match the key.
    """
    found, _ = read_pair("certificate", own, "key")
    above = _read("ca_certificate", authority)
    try:
        found.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        raise BadCertificate(
            "certificate", "was not made by the authority in ca_certificate"
        ) from None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        named = names.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        named = []
    if named != [name]:
        raise BadCertificate("certificate", f"is of {', '.join(named) or 'nobody'}, not of {name}")
    for field, certificate in (("certificate", found), ("ca_certificate", above)):
        begins = certificate.not_valid_before_utc.timestamp()
        ends = certificate.not_valid_after_utc.timestamp()
        if now > ends:
            raise BadCertificate(
                field,
                f"has expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: make the "
                "node's file again with quiltfn fleet add-node --output NEW",
            )
        if now < begins:
            raise BadCertificate(
                field,
                f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: is "
                "the clock of this machine right?",
            )
    return (found.not_valid_after_utc.timestamp() - now) / DAY_S


def read_pair(
    field: str, pair: Credential, key_field: str
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and its key. Raises `BadCertificate`."""
    found = _read(field, pair.certificate)
    try:
        key = serialization.load_pem_private_key(pair.key.encode(), None)
    except (ValueError, TypeError):
        raise BadCertificate(key_field, "is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != found.public_key():
        raise BadCertificate(key_field, f"is not the key of {field}")
    return found, key


def _read(field: str, text: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise BadCertificate(field, "is no certificate in PEM") from None


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, days: int
) -> x509.CertificateBuilder:
    begins = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - EARLIER)
        .not_valid_after(begins + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _as_pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credential:
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Credential(certificate.public_bytes(serialization.Encoding.PEM).decode(), text.decode())
