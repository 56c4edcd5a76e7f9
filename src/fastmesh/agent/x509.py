"""Reads what an operator asks of a certificate out of its PEM: subject, serial, validity, names.

A small DER reader (X.690, RFC 5280 4.1) because `cryptography` would cost the agent ten megabytes. It
describes certificates for people; it decides nothing: OpenSSL verifies.
"""

from __future__ import annotations

from binascii import Error, a2b_base64

SEQUENCE, SET, OID, INTEGER = 0x30, 0x31, 0x06, 0x02
UTC_TIME, OCTETS, BOOLEAN = 0x17, 0x04, 0x01
CONTEXT_0, CONTEXT_3 = 0xA0, 0xA3
SAN_EMAIL, SAN_DNS, SAN_URI, SAN_IP = 0x81, 0x82, 0x86, 0x87
OID_SAN = b"\x55\x1d\x11"
OID_NAMES = {b"\x55\x04\x03": "CN", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU", b"\x55\x04\x06": "C"}
BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"

Item = tuple[int, bytes]


class Malformed(ValueError):
    """Bytes that are no certificate."""


def items(data: bytes) -> list[Item]:
    """The (tag, content) pairs that follow one another in `data`."""
    found = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise Malformed("cut off")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or at + size > len(data):
                raise Malformed("bad length")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise Malformed("cut off")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def content(item: Item, tag: int) -> bytes:
    if item[0] != tag:
        raise Malformed(f"tag {item[0]:#x} where {tag:#x} should be")
    return item[1]


def moment(item: Item) -> int:
    """Unix time of a UTCTime or GeneralizedTime (RFC 5280 4.1.2.5: always in Z)."""
    text = item[1].decode("ascii", "replace")
    if item[0] == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    if len(text) != 15 or not text[:14].isdecimal():
        raise Malformed("bad time")
    month, day, hour, minute, second = [int(text[i : i + 2]) for i in range(4, 14, 2)]
    year = int(text[:4]) - (month < 3)  # years that begin in March: the leap day is the last
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return ((days - 719468) * 24 + hour) * 3600 + minute * 60 + second


def name_text(data: bytes) -> str:
    """A distinguished name, as far as its parts are common ones."""
    parts = []
    for relative in items(data):
        for pair in items(content(relative, SET)):
            oid, value = items(content(pair, SEQUENCE))[:2]
            if label := OID_NAMES.get(content(oid, OID)):
                parts.append(f"{label}={value[1].decode('utf-8', 'replace')}")
    return ", ".join(parts)


def alternative_names(extensions: bytes) -> list[str]:
    """The subjectAltName entries: URI:..., DNS:..., IP:..."""
    for extension in items(content(items(extensions)[0], SEQUENCE)):
        oid, *rest = items(content(extension, SEQUENCE))
        if content(oid, OID) != OID_SAN:
            continue
        names = []
        for tag, value in items(content(items(content(rest[-1], OCTETS))[0], SEQUENCE)):
            if tag == SAN_IP and len(value) == 4:
                names.append("IP:" + ".".join(map(str, value)))
            elif tag == SAN_IP:
                names.append("IP:" + ":".join(value[i : i + 2].hex() for i in range(0, len(value), 2)))
            elif label := {SAN_URI: "URI", SAN_DNS: "DNS", SAN_EMAIL: "email"}.get(tag):
                names.append(f"{label}:{value.decode('ascii', 'replace')}")
        return names
    return []


def describe(der: bytes) -> dict[str, object]:
    """What /certs shows of one certificate; Malformed."""
    tbs = items(content(items(content(items(der)[0], SEQUENCE))[0], SEQUENCE))
    if tbs and tbs[0][0] == CONTEXT_0:
        tbs = tbs[1:]
    if len(tbs) < 6:
        raise Malformed("too short")
    serial, _, issuer, validity, subject = tbs[:5]
    not_before, not_after = items(content(validity, SEQUENCE))[:2]
    extensions = next((value for tag, value in tbs[6:] if tag == CONTEXT_3), b"")
    return {
        "subject": name_text(content(subject, SEQUENCE)),
        "issuer": name_text(content(issuer, SEQUENCE)),
        "serial": content(serial, INTEGER).hex().lstrip("0") or "0",
        "not_before": moment(not_before),
        "not_after": moment(not_after),
        "subject_alt_names": alternative_names(extensions) if extensions else [],
    }


def certificates(pem: bytes) -> list[dict[str, object]]:
    """Every certificate of a PEM file; one that cannot be read is there as {"error": ...}."""
    found: list[dict[str, object]] = []
    for part in pem.split(BEGIN)[1:]:
        try:
            found.append(describe(a2b_base64(part.partition(END)[0])))
        except (Malformed, Error, IndexError, ValueError) as error:
            found.append({"error": f"cannot be read: {error}"})
    return found
