"""The sidecar's store of topics: what follows is applied, what does not is asked for, and in the
end both ends agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmesh.agent.topicstore import APPLIED, DUPLICATE, GAP, TOMBSTONES, TopicStore
from fastmesh.model import wire


def test_only_what_follows_is_applied():
    store = TopicStore("")
    assert store.update("a", 3, 0, b"one") == APPLIED
    assert store.update("a", 3, 0, b"one") == DUPLICATE
    assert store.update("a", 9, 5, b"nine") == GAP and store.topics["a"][0] == 3
    assert store.update("a", 5, 3, b"five") == APPLIED
    assert store.update("b", 8, 7, b"late comer") == GAP and "b" not in store.topics
    assert store.update("a", 10, 5, None) == APPLIED and "a" not in store.topics
    assert store.update("a", 3, 0, b"one") == DUPLICATE, "a late duplicate brings nothing back"
    assert store.update("a", 11, 0, b"again") == APPLIED


def test_a_snapshot_that_was_overtaken_takes_nothing_back():
    store = TopicStore("")
    store.update("a", 7, 0, b"newer")
    store.update("b", 6, 0, b"made meanwhile")
    store.update("c", 2, 0, b"x")
    store.update("c", 8, 2, None)
    assert not store.snapshot(5, {"a": (4, b"older"), "c": (2, b"x")}, ["b"], whole=False)
    assert store.versions() == {"a": 7, "b": 6}
    assert store.snapshot(9, {"a": (4, b"older")}, ["b"], whole=True)
    assert store.versions() == {"a": 4}


def test_tombstones_are_bounded():
    store = TopicStore("")
    for n in range(TOMBSTONES + 10):
        store.update(f"t{n}", 2 * n + 1, 0, b"")
        store.update(f"t{n}", 2 * n + 2, 2 * n + 1, None)
    assert len(store._removed) == TOMBSTONES and not store.topics


def test_the_copy_on_disk_survives_and_a_bad_one_is_told_of(tmp_path):
    store = TopicStore(str(tmp_path / "topics"))
    assert store.load() == ""
    store.begin_epoch("e1")
    store.update("a", 3, 0, b"one")
    assert store.served({"a": 3}) and not store.served({"a": 3})
    store.save()
    again = TopicStore(store.path)
    assert again.load() == "" and again.topics == store.topics and again.epoch == "e1"
    assert again.digest() == store.digest()
    whole = (tmp_path / "topics").read_bytes()
    for bad in (whole[:-1], whole[:9] + b"\xff" + whole[10:], b"", b"\xc0", whole.replace(b"one", b"two")):
        (tmp_path / "topics").write_bytes(bad)
        spoiled = TopicStore(store.path)
        assert spoiled.load() != "" and not spoiled.topics, bad
    assert not list(tmp_path.glob("*.tmp"))


def test_what_the_workers_refuse_is_not_kept(tmp_path):
    store = TopicStore(str(tmp_path / "topics"))
    for topic in ("a", "b", "c"):
        store.update(topic, 1, 0, b"good")
    store.served({"a": 1, "b": 1, "c": 1})
    store.update("a", 2, 1, b"refused")
    store.update("b", 3, 1, b"taken")
    store.update("c", 4, 1, None)
    store.update("d", 5, 0, b"refused")
    assert store.served({"b": 3})
    store.save()
    again = TopicStore(store.path)
    assert again.load() == ""
    assert {t: p for t, (_, _, p) in again.topics.items()} == {"a": b"good", "b": b"taken"}


class Server:
    """The other end: versions, and what it would answer to a sync."""

    def __init__(self) -> None:
        self.version = 0
        self.topics: dict[str, tuple[int, bytes]] = {}

    def change(self, topic: str, payload: bytes | None) -> tuple[str, int, int, bytes | None]:
        self.version += 1
        prev = self.topics[topic][0] if topic in self.topics else 0
        if payload is None:
            self.topics.pop(topic, None)
        else:
            self.topics[topic] = (self.version, payload)
        return topic, self.version, prev, payload

    def answer(self, known: dict[str, list[int]], only: list[str] | None) -> tuple:
        asked = self.topics if only is None else [t for t in only if t in self.topics]
        changed = {
            t: self.topics[t]
            for t in asked
            if known.get(t) != [self.topics[t][0], wire.checksum(self.topics[t][1])]
        }
        removed = [t for t in (known if only is None else {*known, *only}) if t not in self.topics]
        return self.version, changed, removed

    def digest(self) -> int:
        return wire.digest((t, v, wire.checksum(p)) for t, (v, p) in self.topics.items())


CHANGES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.none() | st.binary(max_size=2),
        st.sampled_from(["pass", "drop", "twice", "later", "before"]),
    ),
    max_size=40,
)


@given(CHANGES, st.randoms())
def test_whatever_the_network_does_both_ends_agree_after_one_repair(changes, dice):
    server, store, waiting, answers = Server(), TopicStore(""), [], []

    def deliver(update: tuple) -> None:
        if store.update(*update) == GAP:
            answers.append(server.answer(store.known([update[0]]), [update[0]]))

    for topic, payload, fate in changes:
        if payload is None and topic not in server.topics:
            continue
        update = server.change(topic, payload)
        if fate in ("pass", "twice", "before"):
            deliver(update)
        if fate in ("twice", "later"):
            waiting.append(update)
        if fate == "before" and waiting:
            deliver(waiting.pop(dice.randrange(len(waiting))))
        if answers and dice.random() < 0.5:
            store.snapshot(*answers.pop(dice.randrange(len(answers))), whole=False)
    for update in waiting:
        deliver(update)
    for answer in answers:
        store.snapshot(*answer, whole=False)
    if store.digest() != server.digest():
        store.snapshot(*server.answer(store.known(), None), whole=False)
    assert {t: (v, p) for t, (v, _, p) in store.topics.items()} == server.topics
    assert store.digest() == server.digest()


def test_who_does_not_know_the_policies_lets_nobody_in():
    store = TopicStore("")
    info = {"service": "a", "app_port": 80}
    state, _ = store.desired(info)
    assert state["policy"]["authorization"] == [wire.CLOSED]
    store.topics["ns/default"] = (1, 0, b"\xc1")
    state, bad = store.desired(info)
    assert "ns/default" in bad and state["policy"]["authorization"] == [wire.CLOSED]
    content = {"authorization": [{"labels": {"app": "b"}, "policy": {"name": "x"}}]}
    store.topics["ns/default"] = (1, 0, wire.pack_payload(content))
    state, bad = store.desired(info)
    assert not bad and state["policy"]["authorization"] == []
