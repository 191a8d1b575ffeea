# SPDX-License-Identifier: Apache-2.0
"""Azure's policy grammar: what holds of every policy, made from its rules and not from its text."""

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.azurepolicy import Claim, ClaimIssuer, is_reserved, parse
from kubenclave.dcap.azurepolicy.functions import Values, call, distinct
from kubenclave.dcap.azurepolicy.work import Work

NAMES = st.sampled_from(["a", "b", "x-ms-sgx-svn", "exp"])
SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["", "0", "true", 'q"\\', "\u00e9 // ;"]))
CLAIMS = st.lists(st.builds(Claim, NAMES, SCALARS, st.sampled_from(ClaimIssuer)), max_size=6)
SETS = st.lists(SCALARS, max_size=5).map(distinct)
SPACE = st.sampled_from(["", " ", "\n\t", "// note\n", "/* note */"])


def literal(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def conditions(draw: st.DrawFn) -> str:
    tests = [f"type=={literal(draw(NAMES))}"]
    if draw(st.booleans()):
        tests.append(f"value{draw(st.sampled_from(['==', '!=']))}{literal(draw(SCALARS))}")
    if draw(st.booleans()):
        tests.append(f"value{draw(st.sampled_from(['<', '<=', '>', '>=']))}{draw(st.integers(-3, 3))}")
    return f"{'!' if draw(st.integers(0, 3)) == 0 else ''}[{','.join(tests)}]"


@st.composite
def rules(draw: st.DrawFn, *actions: str) -> str:
    found = draw(st.lists(conditions(), max_size=2))
    action = draw(st.sampled_from(actions)).replace("VALUE", literal(draw(SCALARS)))
    return f"{'&&'.join(found)}=>{action};"


AUTHORIZATION = st.lists(rules("permit()", "deny()", 'add(type="b",value=VALUE)'), max_size=5)
ISSUANCE = st.lists(rules('issue(type="a",value=VALUE)', 'add(type="b",value=VALUE)'), max_size=4)


def written(authorization: list[str], issuance: list[str]) -> str:
    return (
        f"version=1.2;authorizationrules{{{''.join(authorization)}}};issuancerules{{{''.join(issuance)}"
        'c:[type!="\u00e9"]=>issue(claim=c);};'
    )


@given(AUTHORIZATION, ISSUANCE, CLAIMS, st.integers(0, 5))
def test_a_denial_wins_wherever_it_stands(authorization, issuance, claims, place):
    authorization.insert(place, "=>deny();")
    assert not parse(written(authorization, issuance)).evaluate(claims).permitted


@given(ISSUANCE, CLAIMS)
def test_without_a_permit_there_is_no_token(issuance, claims):
    evaluation = parse(written([], issuance)).evaluate(claims)
    assert evaluation.refusal is not None
    assert evaluation.issued == {}


@given(AUTHORIZATION, ISSUANCE, CLAIMS)
def test_what_is_issued_is_never_the_services_own(authorization, issuance, claims):
    evaluation = parse(written(authorization, issuance)).evaluate(claims)
    assert not any(is_reserved(name) for name in evaluation.issued)
    assert evaluation.permitted or not evaluation.issued


@given(AUTHORIZATION, ISSUANCE, CLAIMS.flatmap(lambda claims: st.tuples(st.just(claims), st.permutations(claims))))
def test_the_order_of_claims_decides_nothing(authorization, issuance, orders):
    policy = parse(written(authorization, issuance))
    one, other = (policy.evaluate(claims) for claims in orders)
    assert (one.refusal, one.trace) == (other.refusal, other.trace)
    assert one.issued.keys() == other.issued.keys()


@given(AUTHORIZATION, ISSUANCE, CLAIMS)
def test_claims_given_twice_are_given_once(authorization, issuance, claims):
    policy = parse(written(authorization, issuance))
    assert policy.evaluate(claims) == policy.evaluate([*claims, *claims])


@given(st.data(), AUTHORIZATION, CLAIMS)
def test_space_and_case_of_keywords_mean_nothing(data, authorization, claims):
    text = written(authorization, [])
    for word in ("version", "authorizationrules", "issuancerules", "permit", "deny", "add", "type", "value"):
        text = text.replace(f"{word}(", f"{data.draw(st.sampled_from([word, word.upper()]))}(")
    pieces = [f"{piece};" for piece in text.split(";")[:-1]] if "//" not in text else [text]
    spaced = "".join(data.draw(SPACE) + piece for piece in pieces)
    assert parse(spaced).evaluate(claims).issued == parse(written(authorization, [])).evaluate(claims).issued


@given(SETS, SETS)
def test_sets(one: Values, other: Values):
    def holds(function: str, *arguments: Values) -> bool:
        return call(function, arguments, Work()) == (True,)

    assert holds("IsSubsetOf", one, distinct([*one, *other]))
    if holds("IsSubsetOf", one, other) and holds("IsSubsetOf", other, one):
        assert sorted(map(repr, one)) == sorted(map(repr, other))
    assert [value for value in other if holds("ContainsOnlyValue", one, (value,))] == (
        list(one) if len(one) == 1 and holds("IsSubsetOf", one, other) else []
    )
