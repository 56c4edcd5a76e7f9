"""RFC 7541 appendix C, and blocks that must be refused: for tests of HPACK, and where its fuzzing starts."""

from __future__ import annotations

# RFC 7541 appendix C: (blocks, fields of each, size of the table after each)
C3 = [
    ("828684410f7777772e6578616d706c652e636f6d", 57),
    ("828684be58086e6f2d6361636865", 110),
    ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", 164),
]
C4 = [
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", 57),
    ("828684be5886a8eb10649cbf", 110),
    ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", 164),
]
C34_FIELDS = [
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")],
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]
C5 = [
    (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e17687474"
        "70733a2f2f7777772e6578616d706c652e636f6d",
        222,
    ),
    ("4803333037c1c0bf", 222),
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a"
        "4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
        215,
    ),
]
C6 = [
    (
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae"
        "82ae43d3",
        222,
    ),
    ("4883640effc1c0bf", 222),
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960"
        "d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        215,
    ),
]
DATE = b"Mon, 21 Oct 2013 20:13:21 GMT"
WHERE = (b"location", b"https://www.example.com")
C56_FIELDS = [
    [(b":status", b"302"), (b"cache-control", b"private"), (b"date", DATE), WHERE],
    [(b":status", b"307"), (b"cache-control", b"private"), (b"date", DATE), WHERE],
    [
        (b":status", b"200"),
        (b"cache-control", b"private"),
        (b"date", DATE.replace(b":21 G", b":22 G")),
        WHERE,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ],
]

# (blocks, the fields of each, size of the table)
STORIES = {
    "C.3": (C3, C34_FIELDS, 4096),
    "C.4": (C4, C34_FIELDS, 4096),
    "C.5": (C5, C56_FIELDS, 256),
    "C.6": (C6, C56_FIELDS, 256),
}

REFUSED = [
    "80",  # index 0
    "be",  # beyond the tables
    "ff",  # an integer without its end
    "ffffffffff7f",  # an integer that does not fit
    "0f2f",  # a name beyond the tables
    "4003616263",  # no value
    "4005616263",  # a name longer than the block
    "820000",  # a literal cut off
    "8220",  # a size update behind a field
    "202020",  # three size updates
    "3fe21f",  # 4097: above what was offered
    "0085ffffffffff00",  # EOS inside
    "00810000",  # Huffman: padding of zeros
    "0082ffff00",  # Huffman: more than 7 bits of padding
]
