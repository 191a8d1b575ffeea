# SPDX-License-Identifier: Apache-2.0
"""What differs between the policies of two sites."""

import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kubenclave.cluster.admission import Site
from kubenclave.cluster.policies import cel

QUOTE_HELPER_ACCOUNT: Final = "kubenclave-quote-helper"


@dataclass(frozen=True, slots=True)
class Settings:
    """CEL literals as they stand in the objects; in the chart's templates they are Helm's expressions for them.

    ``allowed`` is a list of strings ``namespace/service account``. ``namespace`` is the add-on's own, no CEL.
    """

    epc_mode: str
    enclave_without_epc: str
    allowed: str
    namespace: str
    labels: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, site: Site, namespace: str) -> Self:
        """Return the settings of a site. In our own namespace only the quote helper has the provisioning key."""
        pairs = {pair for pair in site.grants.allowed if pair[0] != namespace} | {(namespace, QUOTE_HELPER_ACCOUNT)}
        return cls(
            epc_mode=cel.text(site.rules.epc_mode),
            enclave_without_epc=cel.text(site.rules.enclave_without_epc),
            allowed=json.dumps(sorted("/".join(pair) for pair in pairs), separators=(",", ":")),
            namespace=namespace,
            labels={"app.kubernetes.io/name": "kubenclave", "app.kubernetes.io/component": "admission"},
        )

    @property
    def granted(self) -> str:
        """Expression: whether the pod's service account may have the provisioning key."""
        return f'(request.namespace + "/" + object.spec.?serviceAccountName.orValue("default")) in {self.allowed}'
