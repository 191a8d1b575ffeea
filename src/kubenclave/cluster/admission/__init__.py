# SPDX-License-Identifier: Apache-2.0
"""What becomes of a pod that asks for SGX. Pure: a pod in, the pod that runs and what it takes out.

Names, units and reasons stand in ``table``, which every rendering of the rules reads.
"""

from kubenclave.cluster.admission.asks import Admitted, Ask, ContainerKind
from kubenclave.cluster.admission.review import admit
from kubenclave.cluster.admission.table import EnclaveWithoutEpc, Grants, Rules, Site

__all__ = ["Admitted", "Ask", "ContainerKind", "EnclaveWithoutEpc", "Grants", "Rules", "Site", "admit"]
