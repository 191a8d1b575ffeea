# SPDX-License-Identifier: Apache-2.0
"""Sockets on which programs of the cluster serve."""

import socket

from kubenclave.cluster.serving import listen


def test_what_is_accepted_sends_at_once():
    with listen(0) as listening, socket.create_connection(("127.0.0.1", listening.getsockname()[1])):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
