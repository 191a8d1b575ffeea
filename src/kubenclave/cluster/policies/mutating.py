# SPDX-License-Identifier: Apache-2.0
"""The mutating half of admission as a policy of Kubernetes >= 1.36: a JSON patch, each rule a part of it.

One patch for all rules, since the API server encodes and decodes the pod anew for each patch: six took 3 ms longer.
It changes what can be meant and leaves the rest for the validating half, and the API server, to refuse with a reason.
"""

from textwrap import indent
from typing import Final

from kubenclave.cluster.admission.table import (
    AESM_PATHS,
    AESM_VARIABLE,
    AESMD,
    SELECTED,
    TOLERATED,
    TOTAL_ANNOTATION,
)
from kubenclave.cluster.policies import cel
from kubenclave.cluster.policies.settings import Settings
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE

_AESM_PATTERN: Final = f'"^({"|".join(AESM_PATHS)})/*$"'
_VOLUMES: Final = "object.spec.?volumes.orValue([])"
_TOLERATIONS: Final = "object.spec.?tolerations.orValue([])"

_MOUNTS: Final = "c.own.?volumeMounts.orValue([])"

# A mount of the AESM directory at the place to which the enclave device brings it anyway.
_BROUGHT: Final = (
    f'm.name in variables.aesmVolumes && m.mountPath.matches({_AESM_PATTERN}) && m.?subPath.orValue("") == ""'
)


def variables(settings: Settings) -> dict[str, str]:
    """Return what the parts of the patch share."""
    return {
        **cel.table(settings.epc_mode),
        "unit": "variables.units[variables.canonical]",
        "granted": settings.granted,
        **_of_containers(),
        **_of_pod(),
    }


def patch() -> str:
    """Return the patch, an expression of a list of ``JSONPatch``."""
    parts = (_resources(), _quotes(), _mounts(), _volumes(), _tolerate(), _select(), _total())
    return " + ".join(f"(\n{indent(part, '  ')})" for part in parts) + "\n"


def _of_containers() -> dict[str, str]:
    """Return all containers, those that ask for SGX, and those of which one amount of EPC is meant."""
    places = " +\n  ".join(
        f'lists.range(size({containers})).map(i, {{"path": dyn("/spec/{name}/" + string(i)), "own": {containers}[i]}})'
        for name, containers in (("initContainers", cel.INIT_CONTAINERS), ("containers", cel.CONTAINERS))
    )
    return {
        "containers": cel.asked(places, container="c.own", more=("path", "own")),
        "asks": f"variables.containers.filter(c, {cel.ASKS})",
        "meant": cel.lines(f"""
            variables.asks.filter(c,
              {cel.NAMED}.all(r, {cel.SENSIBLE}) &&
              variables.dialects.filter(r, r in c.requests).all(r,
                r in c.limits && quantity(c.requests[r]).compareTo(quantity(c.limits[r])) == 0)
            ).map(c, {{
              "name": c.name, "path": c.path, "limits": c.limits, "own": c.own,
              "bytes": dyn({cel.NAMED}.map(r, {cel.BYTES}))
            }}).filter(c, size(c.bytes) > 0 && c.bytes.all(b, b == c.bytes[0]))
        """),
    }


def _of_pod() -> dict[str, str]:
    """Return the EPC of the whole pod, and what the pod lacks or has too much.

    The total is as the scheduler counts: main containers and sidecars together, or one init container and the sidecars
    before it. ``sizes`` has the init containers first.
    """
    return {
        "sizes": cel.lines(f"""
            variables.containers.map(c,
              ([0] + {cel.NAMED}.filter(r, {cel.SENSIBLE}).map(r,
                ({cel.BYTES} + variables.unit - 1) / variables.unit * variables.unit)).max())
        """),
        "sidecars": f"{cel.INIT_CONTAINERS}.map(c, {cel.SIDECAR})",
        "total": cel.lines("""
            (
              lists.range(size(variables.sidecars)).map(i,
                variables.sizes[i] +
                lists.range(i).filter(j, variables.sidecars[j]).map(j, variables.sizes[j]).sum()) +
              [lists.range(size(variables.sizes)).filter(i,
                i >= size(variables.sidecars) || variables.sidecars[i]).map(i, variables.sizes[i]).sum()]
            ).max()
        """),
        "said": f'{cel.ANNOTATIONS}[?{cel.text(TOTAL_ANNOTATION)}].orValue("")',
        "aesmVolumes": f'{_VOLUMES}.filter(v, v.?hostPath.?path.orValue("").matches({_AESM_PATTERN})).map(v, v.name)',
        "idleVolumes": cel.lines(f"""
            variables.aesmVolumes.filter(n,
              !variables.containers.exists(c, {_MOUNTS}.exists(m,
                m.name == n && !({_BROUGHT} && {cel.ASKS}))))
        """),
        "untolerated": cel.lines(f"""
            {cel.names(TOLERATED)}.filter(k, !{_TOLERATIONS}.exists(t,
              t.?operator.orValue("") == "Exists" &&
              t.?key.orValue("") in ["", k] &&
              t.?effect.orValue("") in ["", "NoSchedule"]))
        """),
    }


def _resources() -> str:
    """Write one name for EPC, and the enclave device, into limits and, where there are any, requests."""
    return cel.lines(f"""
        variables.meant.map(c,
          ["limits", "requests"].filter(k, k in c.own.resources).map(k,
            variables.dialects.filter(r, r != variables.canonical && r in c.own.resources[k]).map(r,
              JSONPatch{{op: "remove", path: c.path + "/resources/" + k + "/" + jsonpatch.escapeKey(r)}}
            ) + ([
              {{"name": variables.canonical,
               "amount": string((c.bytes[0] + variables.unit - 1) / variables.unit)}},
              {{"name": "{ENCLAVE_RESOURCE}", "amount": "1"}}
            ] + ({cel.PROVIDES} && variables.granted ? [{{"name": "{PROVISION_RESOURCE}", "amount": "1"}}] : [])
            ).filter(w, !(w.name in c.own.resources[k])).map(w,
              JSONPatch{{
                op: "add",
                path: c.path + "/resources/" + k + "/" + jsonpatch.escapeKey(w.name),
                value: w.name in c.limits ? c.limits[w.name] : w.amount
              }}
            )
          ).flatten()
        ).flatten()
    """)


def _quotes() -> str:
    """Say where quotes come from, for a pod that asks for it, where the author said nothing else."""
    env = "c.own.?env.orValue([])"
    return cel.lines(f"""
        (variables.provider == "{AESMD}" ? variables.asks : []).filter(c,
          !{env}.exists(e, e.name == "{AESM_VARIABLE}")
        ).map(c, JSONPatch{{
          op: "add",
          path: c.path + "/env",
          value: {env} + [{{"name": "{AESM_VARIABLE}", "value": "1"}}]
        }})
    """)


def _mounts() -> str:
    """Remove mounts of the host's AESM directory: the enclave device brings it, also where hostPath is forbidden."""
    return cel.lines(f"""
        variables.asks.filter(c,
          {_MOUNTS}.exists(m, {_BROUGHT})
        ).map(c, JSONPatch{{
          op: "add",
          path: c.path + "/volumeMounts",
          value: {_MOUNTS}.filter(m, !({_BROUGHT}))
        }})
    """)


def _volumes() -> str:
    """Remove its volumes where nothing mounts them any more."""
    return cel.lines(f"""
        size(variables.asks) > 0 && size(variables.idleVolumes) > 0 ? [JSONPatch{{
          op: "add",
          path: "/spec/volumes",
          value: {_VOLUMES}.filter(v, !(v.name in variables.idleVolumes))
        }}] : []
    """)


def _tolerate() -> str:
    """Tolerate the taints that keep other pods off SGX nodes."""
    return cel.lines(f"""
        size(variables.asks) > 0 && size(variables.untolerated) > 0 ? [JSONPatch{{
          op: "add",
          path: "/spec/tolerations",
          value: {_TOLERATIONS} + variables.untolerated.map(k, {{
            "key": k, "operator": "Exists", "effect": "NoSchedule"
          }})
        }}] : []
    """)


def _select() -> str:
    """Select nodes with SGX where the pod names its node itself: the kubelet looks at that, and at nothing of ours."""
    name = SELECTED.replace("/", "~1")
    return cel.lines(f"""
        size(variables.asks) == 0 || !({cel.UNCHECKED}) ? [] :
        has(object.spec.nodeSelector) ? [JSONPatch{{
          op: "add", path: "/spec/nodeSelector/{name}", value: "true"
        }}] : [JSONPatch{{
          op: "add", path: "/spec/nodeSelector", value: {{{cel.text(SELECTED)}: "true"}}
        }}]
    """)


def _total() -> str:
    """Write the EPC of the whole pod into an annotation, unless its author asks for more there.

    Less would be what an earlier round wrote, before another admission put a container into the pod.
    """
    name = TOTAL_ANNOTATION.replace("/", "~1")
    return cel.lines(f"""
        variables.total == 0 || (isQuantity(variables.said) && quantity(variables.said).isInteger() &&
          quantity(variables.said).asInteger() >= variables.total) ? [] :
        has(object.metadata.annotations) ? [JSONPatch{{
          op: "add", path: "/metadata/annotations/{name}", value: string(variables.total)
        }}] : [JSONPatch{{
          op: "add", path: "/metadata/annotations", value: {{{cel.text(TOTAL_ANNOTATION)}: string(variables.total)}}
        }}]
    """)
