# SPDX-License-Identifier: Apache-2.0
"""The table of admission as CEL: names, conditions, and what every policy has as variables.

CEL has neither functions nor local names, so what several expressions need is a variable of the policy.
"""

import json
import string
from collections.abc import Iterable
from textwrap import dedent
from typing import Final

from kubenclave.cluster.admission.table import (
    AESMD,
    DIALECTS,
    QUOTE_PROVIDER,
    SELECTED,
    SGX_RESOURCES,
    Refusal,
    Rules,
)
from kubenclave.sgx.epc import EpcMode

ANNOTATIONS: Final = "object.?metadata.?annotations.orValue({})"
CONTAINERS: Final = "object.spec.containers"
INIT_CONTAINERS: Final = "object.spec.?initContainers.orValue([])"


def text(value: str) -> str:
    """Return a string as CEL writes it; JSON's escapes are among CEL's."""
    return json.dumps(value, ensure_ascii=False)


def names(values: Iterable[str]) -> str:
    """Return a list of strings as CEL writes it."""
    return f"[{', '.join(map(text, values))}]"


def numbers(values: Iterable[tuple[str, int]]) -> str:
    """Return a map of strings to integers as CEL writes it."""
    return f"{{{', '.join(f'{text(key)}: {value}' for key, value in values)}}}"


def lines(expression: str) -> str:
    """Return an expression as it is to stand in YAML: without the indentation it has in our source."""
    return dedent(expression).strip() + "\n"


def sentence(refusal: Refusal, *, field: str, found: str, most: str = '""') -> str:
    """Return the expression of a finding's text: ``[code] field: expected X, found Y (next step)``.

    ``field``, ``found`` and ``most`` are expressions of strings.
    """
    values = {"field": field, "canonical": "variables.canonical", "most": most, "found": found}
    template = f"[{refusal.code}] {{field}}: expected {refusal.expected}, found {{found}} ({refusal.hint})"
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts += [text(literal)] if literal else []
        parts += [values[name]] if name else []
    return " + ".join(parts)


def _listed(key: str, container: str = "c") -> str:
    return f"{container}.?resources.?{key}.orValue({{}})"


def asks_for(resources: Iterable[str]) -> str:
    """Return the condition that a container or init container asks for one of ``resources``."""
    return lines(f"""
        ({CONTAINERS} + {INIT_CONTAINERS}).exists(c,
          {names(resources)}.exists(r,
            r in {_listed("limits")} || r in {_listed("requests")}))
    """)


ASKS_FOR_SGX: Final = asks_for(SGX_RESOURCES)
"""Match condition of everything of ours: a pod for which it does not hold never meets us."""


def table(epc_mode: str) -> dict[str, str]:
    """Return the variables that hold the table; ``epc_mode`` is the expression of the site's mode."""
    counted = ", ".join(f"{text(mode)}: {text(Rules(epc_mode=mode).canonical)}" for mode in EpcMode)
    return {
        "dialects": names(dialect.resource for dialect in DIALECTS),
        "units": numbers((dialect.resource, dialect.unit) for dialect in DIALECTS),
        "most": numbers((dialect.resource, dialect.most) for dialect in DIALECTS),
        "canonical": f"{{{counted}}}[{epc_mode}]",
        "provider": f'{ANNOTATIONS}[?{text(QUOTE_PROVIDER)}].orValue("")',
    }


def asked(containers: str, *, container: str = "c", more: Iterable[str] = ()) -> str:
    """Return the list ``containers``, an expression, as what each asks for: its name, limits and requests.

    ``container`` is the Container in one entry ``c`` of that list, ``more`` are further members of the result.
    """
    members = [
        f'"name": dyn({container}.name)',
        f'"limits": dyn({_listed("limits", container)})',
        f'"requests": dyn({_listed("requests", container)})',
        *(f'"{name}": dyn(c.{name})' for name in more),
    ]
    inner = ",\n  ".join(members)
    return f"({containers}).map(c, {{\n  {inner}\n}})\n"


def positive(resource: str) -> str:
    """Return whether container ``c`` asks for more than nothing of ``resource``, an expression."""
    return f'{resource} in c.limits && quantity(c.limits[{resource}]).isGreaterThan(quantity("0"))'


ASKS: Final = f"{names(SGX_RESOURCES)}.exists(r, {positive('r')})"
"""Whether container ``c`` asks for anything of SGX."""

UNCHECKED: Final = (
    'object.spec.?nodeName.orValue("") != ""'
    f' && object.spec.?nodeSelector.orValue({{}})[?{text(SELECTED)}].orValue("") != "true"'
)
"""Whether the pod names its node itself, and lets the kubelet take any node for one with SGX."""

NAMED: Final = "variables.dialects.filter(r, r in c.limits)"
"""The dialects that container ``c`` asks in."""

SENSIBLE: Final = (
    "quantity(c.limits[r]).isInteger() && quantity(c.limits[r]).asInteger() > 0"
    " && quantity(c.limits[r]).asInteger() <= variables.most[r]"
)
"""Whether container ``c`` asks in dialect ``r`` for an amount that can be."""

BYTES: Final = "quantity(c.limits[r]).asInteger() * variables.units[r]"
"""The bytes that container ``c`` asks for in dialect ``r``."""

PROVIDES: Final = f'(variables.provider == c.name && c.name != "{AESMD}")'
"""Whether the annotation makes container ``c`` the quote provider, Intel's way to ask for the provisioning key."""

SIZE: Final = (
    f"({_listed('limits')}[?variables.canonical].optMap(a,"
    " quantity(a).isInteger() && quantity(a).asInteger() <= variables.most[variables.canonical]"
    " ? quantity(a).asInteger() * variables.units[variables.canonical] : 0).orValue(0))"
)
"""The bytes of EPC of a Container ``c`` as they are counted, once its resources have the one name."""

SIDECAR: Final = 'c.?restartPolicy.orValue("") == "Always"'
"""Whether init container ``c`` goes on running beside the main ones."""
