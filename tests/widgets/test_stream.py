"""The stream's promises: two in flight, the newest wins, one held, none when hidden."""

from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.widgets.stream import Stream


def pipe(**options):
    sent = []
    stream = Stream(lambda content, buffers: sent.append((content, buffers)), **options)
    return stream, sent


def offer(stream, number, **options):
    return stream.offer(lambda: ({"number": number}, [bytes([number % 256])]), **options)


def numbers(sent):
    return [content["number"] for content, _ in sent]


def test_nothing_travels_before_a_page_says_hello_then_the_newest_does():
    stream, sent = pipe(per_second=0)
    for number in range(5):
        offer(stream, number)
    assert sent == []
    assert stream.receive({"kind": "hello"})
    assert numbers(sent) == [4]


def test_two_travel_and_the_newest_follows_an_acknowledgement():
    stream, sent = pipe(per_second=0)
    stream.receive({"kind": "hello"})
    for number in range(10):
        offer(stream, number)
    assert numbers(sent) == [0, 1]
    stream.receive({"kind": "ack", "id": 1})
    assert numbers(sent) == [0, 1, 9]
    assert stream.dropped == 7
    stream.receive({"kind": "ack", "id": 1})  # a second page acknowledges the same message
    assert numbers(sent) == [0, 1, 9]


def test_a_page_that_comes_back_sees_the_newest_at_once():
    stream, sent = pipe(per_second=0)
    stream.receive({"kind": "hello"})
    for number in range(4):
        offer(stream, number)
    stream.receive({"kind": "hello"})
    assert numbers(sent) == [0, 1, 3]
    stream.receive({"kind": "hello"})
    assert numbers(sent) == [0, 1, 3, 3]


def test_a_page_that_hears_nothing_is_sent_what_was_lost_and_only_that():
    stream, sent = pipe(per_second=0)
    stream.receive({"kind": "hello"})
    offer(stream, 0)
    stream.receive({"kind": "quiet"})
    assert numbers(sent) == [0, 0]
    stream.receive({"kind": "ack", "id": 2})
    stream.receive({"kind": "quiet"})
    assert numbers(sent) == [0, 0]


def test_a_hidden_page_is_sent_nothing():
    stream, sent = pipe(per_second=0)
    stream.receive({"kind": "hello"})
    stream.receive({"kind": "hidden"})
    offer(stream, 7)
    assert sent == []
    stream.receive({"kind": "hello"})
    assert numbers(sent) == [7]


def test_messages_are_made_no_more_often_than_asked_save_the_last():
    stream, _ = pipe(per_second=0.001)
    made = [offer(stream, number) for number in range(5)]
    assert made == [True, False, False, False, False]
    assert offer(stream, 9, last=True)
    stream.receive({"kind": "hello"})
    assert stream.sent == 1


def test_a_closed_stream_sends_nothing_and_other_messages_are_not_its_business():
    stream, sent = pipe(per_second=0)
    assert not stream.receive({"kind": "probe"})
    stream.receive({"kind": "hello"})
    stream.close()
    assert not offer(stream, 1)
    stream.receive({"kind": "hello"})
    assert sent == []


EVENTS = st.one_of(
    st.just({"kind": "hello"}),
    st.just({"kind": "hidden"}),
    st.just({"kind": "quiet"}),
    st.builds(lambda number: {"kind": "ack", "id": number}, st.integers(0, 30)),
    st.just(None),
)


@given(st.lists(EVENTS, max_size=60))
def test_whatever_a_page_does_few_travel_and_order_is_kept(events):
    stream, sent = pipe(per_second=0)
    travelling = set()
    for number, event in enumerate(events):
        before = len(sent)
        if event is None:
            offer(stream, number)
        else:
            stream.receive(event)
            if event["kind"] in ("hello", "quiet"):
                travelling.clear()
            if event.get("id") in travelling:
                travelling = {each for each in travelling if each > event["id"]}
        travelling |= {content["id"] for content, _ in sent[before:]}
        assert len(travelling) <= 2
    assert numbers(sent) == sorted(numbers(sent))
