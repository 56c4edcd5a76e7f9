"""agent/x509.py, against `cryptography` as the oracle."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress

import pytest
from cryptography import x509 as oracle
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.agent import x509

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES: list[oracle.GeneralName] = [
    oracle.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/web"),
    oracle.DNSName("web.example"),
    oracle.IPAddress(ipaddress.ip_address("10.0.0.1")),
]


def make(
    not_before: datetime.datetime, not_after: datetime.datetime, serial: int, names: list[oracle.GeneralName]
) -> bytes:
    subject = oracle.Name(
        [
            oracle.NameAttribute(NameOID.ORGANIZATION_NAME, "fastmesh"),
            oracle.NameAttribute(NameOID.COMMON_NAME, "wéb"),
        ]
    )
    builder = (
        oracle.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(oracle.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(oracle.SubjectAlternativeName(names), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def seconds(moment: datetime.datetime) -> int:
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def test_everything_shown_is_right() -> None:
    begin, end = datetime.datetime(2024, 2, 29, 12, 34, 56), datetime.datetime(2061, 3, 1, 0, 0, 1)
    pem = make(begin, end, 0x1234567890ABCDEF, NAMES)
    (found,) = x509.certificates(pem)
    assert found == {
        "subject": "O=fastmesh, CN=wéb",
        "issuer": "O=fastmesh, CN=wéb",
        "serial": "1234567890abcdef",
        "not_before": seconds(begin),
        "not_after": seconds(end),
        "subject_alt_names": [
            "URI:spiffe://cluster.local/ns/default/sa/web", "DNS:web.example", "IP:10.0.0.1",
        ],
    }  # fmt: skip


@given(
    st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1)),
    st.integers(min_value=1, max_value=2**159 - 1),
)
def test_times_and_serials_are_the_oracles(moment: datetime.datetime, serial: int) -> None:
    moment = moment.replace(microsecond=0)
    pem = make(moment, moment + datetime.timedelta(days=1), serial, [])
    (found,) = x509.certificates(pem)
    assert found["not_before"] == seconds(moment)
    assert int(str(found["serial"]), 16) == serial
    assert found["subject_alt_names"] == []


def test_a_chain_is_read_in_order_and_one_bad_part_does_not_hide_the_others() -> None:
    now = datetime.datetime(2026, 1, 1)
    first, second = (make(now, now + datetime.timedelta(days=1), serial, []) for serial in (1, 2))
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    found = x509.certificates(first + broken + b"text between\n" + second)
    assert [each.get("serial", "bad") for each in found] == ["1", "bad", "2"]
    assert x509.certificates(b"") == []


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_damaged_bytes_are_described_or_refused_never_worse(at: int, byte: int) -> None:
    der = bytearray(DER)
    der[at % len(der)] = byte
    with contextlib.suppress(ValueError, IndexError):
        x509.describe(bytes(der))


DER = oracle.load_pem_x509_certificate(
    make(datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 2), 5, NAMES)
).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("length", range(0, len(DER), 7))
def test_cut_off_bytes_are_refused(length: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        x509.describe(DER[:length])
