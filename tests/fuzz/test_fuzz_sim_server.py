# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED CPU's socket: whatever one peer sends, another gets its answers and no EPC is lost."""

import struct
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.platform.simulated.server import ServerLimits
from kubenclave.wire import simcpu
from tests import simulated_enclaves as made
from tests.integration.test_sim_server import SEAL, Running, serving
from tests.waiting import eventually

REQUESTS: list[simcpu.Request] = [
    simcpu.Create(size=made.SIZE, attributes=made.PLAIN),
    *(simcpu.Add(pages) for pages in made.LOAD),
    simcpu.Extend(0, bytes(256)),
    simcpu.Measured(made.MR_ENCLAVE, 2),
    simcpu.Init(made.signed().build()),
    simcpu.MakeReport(bytes(512), bytes(64)),
    simcpu.GetKey(SEAL.build()),
    simcpu.GetStatus(),
    simcpu.GetPckChain(),
    simcpu.GetSections(),
]
HONEST = [simcpu.encode_request(request) for request in REQUESTS]


def framed(op: int, operands: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(operands), op) + operands


STREAMS = st.lists(
    st.one_of(
        st.sampled_from(HONEST),
        st.binary(max_size=64),
        st.builds(framed, st.integers(0, 12), st.binary(max_size=700)),
        st.sampled_from(HONEST).flatmap(lambda frame: st.integers(0, len(frame)).map(lambda end: frame[:end])),
    ),
    max_size=8,
).map(b"".join)


def send(running: Running, stream: bytes) -> None:
    with running.raw() as connection, suppress(ConnectionError):
        connection.sendall(stream)
        connection.shutdown(1)
        while connection.recv(1 << 16):
            pass


def test_whatever_a_peer_sends_others_are_served():
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        limits = ServerLimits(frame_seconds=2)
        with serving(Path(folder), limits=limits) as running, running.enclave() as honest:
            key = honest.key(SEAL)

            @given(STREAMS)
            def run(stream: bytes) -> None:
                send(running, stream)
                assert honest.key(SEAL) == key

            run()
            eventually(lambda: honest.status().epc_free == (256 - 3) * 4096)
