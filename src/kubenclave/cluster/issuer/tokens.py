# SPDX-License-Identifier: Apache-2.0
"""Who asks the issuer: the API server says whose token it is, and on which node its pod runs."""

from typing import Final

from kubenclave.cluster.api import TOKEN_REVIEWS, ClusterApi
from kubenclave.errors import TrustError
from kubenclave.platform.simulated.issued import AUDIENCE

_NODE: Final = "authentication.kubernetes.io/node-name"


async def node_of(api: ClusterApi, token: str, account: str) -> str:
    """Return the name of the node on which the owner of a token runs.

    ``account`` is the only user who may ask, as in ``system:serviceaccount:kubenclave:kubenclave-simulator``. Raises
    TrustError ``simissuer.caller`` for any other and for a token that is not for us; ClusterError and
    UnreachableError when the API server does not say.
    """
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    status = (await api.create(TOKEN_REVIEWS, review)).get("status") or {}
    if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or ()):
        raise _refused(f"a token for {AUDIENCE}", "another one, or an old one")
    user = status.get("user") or {}
    if user.get("username") != account:
        raise _refused(account, str(user.get("username")))
    nodes: list[str] = (user.get("extra") or {}).get(_NODE) or []
    if len(nodes) != 1:
        raise _refused("a token that is bound to a pod on a node", "one that is not")
    return nodes[0]


def _refused(expected: str, found: str) -> TrustError:
    return TrustError("not a simulator of this cluster", code="simissuer.caller", expected=expected, found=found)
