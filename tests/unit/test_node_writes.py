# SPDX-License-Identifier: Apache-2.0
"""Answers to the kubelet go out in one piece each."""

import asyncio

from kubenclave.node.kubelet import _OneWrite
from tests.asynchronous import in_a_loop


class Recorded(asyncio.Transport):
    """A transport that keeps what is sent through it."""

    def __init__(self):
        super().__init__({"peername": "kubelet"})
        self.sent = []
        self.closed = False

    def write(self, data):
        self.sent.append(bytes(data))

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True


@in_a_loop
async def test_what_one_turn_of_the_loop_writes_is_sent_at_once():
    real = Recorded()
    transport = _OneWrite(real)
    for part in (b"headers", b"message", b"trailers"):
        transport.write(part)
    assert real.sent == []
    await asyncio.sleep(0)
    assert real.sent == [b"headersmessagetrailers"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert real.sent == [b"headersmessagetrailers", b"next"]


@in_a_loop
async def test_what_is_written_is_sent_before_the_end():
    real = Recorded()
    transport = _OneWrite(real)
    transport.write(b"last")
    transport.close()
    assert (real.sent, transport.is_closing()) == ([b"last"], True)
    await asyncio.sleep(0)
    assert real.sent == [b"last"]


def test_it_knows_what_the_real_transport_knows():
    transport = _OneWrite(Recorded())
    assert transport.get_extra_info("peername") == "kubelet"
    assert transport.get_extra_info("socket", "none") == "none"
