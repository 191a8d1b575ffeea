# SPDX-License-Identifier: Apache-2.0
"""Every error kubenclave raises on purpose.

::

    KubenclaveError
    ├── UsageError            the caller asked for something that cannot be            exit 2
    ├── FormatError           the bytes are not what they should be                    exit 3
    ├── VerificationError     the answer is no                                         exit 1
    │   ├── TrustError        not genuine, or not current
    │   └── PolicyError       genuine, but not what the policy wants (all findings)
    ├── UnreachableError      somebody we depend on does not answer                    exit 4
    ├── ClusterError          the cluster's API server refuses                         exit 5
    └── PlatformError         this machine lacks something, or has run out of it       exit 5

Each carries a stable ``code`` (listed in docs/errors.md) that programs may compare, and where it helps the
specification's name of the ``field``, what was ``expected``, what was ``found`` and a ``hint``: the next step.
Messages are lower case without a full stop and hold no secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class KubenclaveError(Exception):
    """Base of the tree; ``exit_code`` is the command line's, ``http_status`` a service's."""

    exit_code: ClassVar[int] = 5
    http_status: ClassVar[int] = 500

    def __init__(  # the keywords are the fields of the error
        self,
        message: str,
        *,
        code: str,
        field: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.expected = expected
        self.found = found
        self.hint = hint

    @property
    def summary(self) -> str:
        """The message with the field it is about, without what was expected and found."""
        if self.field and not self.message.startswith(self.field):
            return f"{self.field}: {self.message}"
        return self.message

    def __str__(self) -> str:
        text = self.summary
        sides = (("expected", self.expected), ("found", self.found))
        told = ", ".join(f"{side} {value}" for side, value in sides if value is not None)
        return f"{text} ({told})" if told else text

    def as_dict(self) -> dict[str, Any]:
        """Shape of the error in JSON output: only the keys that are set."""
        fields = {
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        return {key: value for key, value in fields.items() if value is not None}


class UsageError(KubenclaveError):
    """The request itself cannot be carried out."""

    exit_code = 2
    http_status = 400


class FormatError(KubenclaveError):
    """Bytes or text that are not what they are said to be. Parsers raise nothing else."""

    exit_code = 3
    http_status = 400


class VerificationError(KubenclaveError):
    """The evidence was understood and the answer is no."""

    exit_code = 1
    http_status = 422


class TrustError(VerificationError):
    """The evidence is not genuine, or not current. The first such finding ends the run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule of a policy that the evidence does not meet; ``hint`` is the next step where there is one."""

    code: str
    field: str
    expected: str
    found: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, found {self.found}"


class PolicyError(VerificationError):
    """The evidence is genuine but not what was wanted; ``findings`` holds every reason at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        reasons = "; ".join(str(finding) for finding in self.findings)
        code = self.findings[0].code if len(self.findings) == 1 else "policy.refused"
        hints = dict.fromkeys(finding.hint for finding in self.findings if finding.hint)
        super().__init__(f"refused by policy: {reasons}", code=code, hint="; ".join(hints) or None)

    def as_dict(self) -> dict[str, Any]:
        """Shape of the error in JSON output, with the list of findings."""
        findings = [{"code": f.code, "field": f.field, "expected": f.expected, "found": f.found} for f in self.findings]
        return {**super().as_dict(), "findings": findings}


class UnreachableError(KubenclaveError):
    """A socket or a service that we need does not answer (in time)."""

    exit_code = 4
    http_status = 503


class ClusterError(KubenclaveError):
    """A cluster's API server was reached and refuses: not there, not allowed, changed since, not valid."""

    exit_code = 5
    http_status = 502


class PlatformError(KubenclaveError):
    """This machine lacks something, or has run out of it."""

    exit_code = 5
    http_status = 503


def first_error(group: BaseExceptionGroup[KubenclaveError]) -> KubenclaveError:
    """Return the first error of ours in a group: the others are its consequences."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
