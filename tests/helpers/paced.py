"""Clients that ask all at once, and again after a pause near a given time: what happens to connections that
idle for so long?"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

CLIENTS = 24


def waves(
    port: int, gap: float, count: int, methods: Sequence[str], spread: float = 0.04, clients: int = CLIENTS
) -> Counter[int | str]:
    """Statuses, or what else clients saw.

    In each of `count` waves every client asks once, on a connection that it keeps, `gap` seconds after the
    wave before, up to `spread` seconds sooner or later. `methods` are those of the waves, in turn.
    """
    seen: Counter[int | str] = Counter()
    lock = threading.Lock()
    chance = random.Random(port)
    late = [[chance.uniform(-spread, spread) for _ in range(count)] for _ in range(clients)]
    begin = time.monotonic() + 0.2

    def run(offsets: list[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for wave, offset in enumerate(offsets):
            time.sleep(max(0.0, begin + wave * gap + offset - time.monotonic()))
            method = methods[wave % len(methods)]
            body = b"0123456789" if method == "POST" else None
            try:
                connection.request(method, "/", body, {"Host": "x"})
                answer = connection.getresponse()
                got = answer.read()
                result: int | str = answer.status
                if result == 200 and got != str(len(body or b"")).encode():
                    result = f"200 with {got!r}"
            except (OSError, http.client.HTTPException) as error:
                result = repr(error)
                connection.close()
            with lock:
                seen[result] += 1
        connection.close()

    threads = [threading.Thread(target=run, args=(offsets,), daemon=True) for offsets in late]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(count * gap + 60)
    return seen
