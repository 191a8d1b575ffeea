# SPDX-License-Identifier: Apache-2.0
"""Azure's policy grammar: what policies say of claims."""

import base64
import hashlib
import json
from typing import Any

import pytest

from kubenclave.dcap.azurepolicy import (
    DEFAULT_SGX_POLICY,
    DEFAULT_TDX_POLICY,
    Claim,
    ClaimIssuer,
    Evaluation,
    azure_policy_digest,
    claims_of,
    parse,
)
from kubenclave.dcap.azurepolicy.claims import OLD_NAMES
from kubenclave.errors import PolicyError

SGX = {
    "x-ms-attestation-type": "sgx",
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-mrenclave": "aa",
    "x-ms-sgx-mrsigner": "bb",
    "x-ms-sgx-product-id": 7,
    "x-ms-sgx-svn": 3,
}


def judge(authorization: str, issuance: str = "", claims=SGX, configuration: str = "") -> Evaluation:
    text = f"version=1.2; configurationrules{{{configuration}}}; authorizationrules{{{authorization}}};"
    policy = parse(f"{text} issuancerules{{{issuance}}};")
    given = claims_of(claims) if isinstance(claims, dict) else claims
    assert policy.evaluate(given) == policy.evaluate(given)
    return policy.evaluate(given)


def issue(rules: str, claims=SGX) -> dict[str, Any]:
    evaluation = judge("=>permit();", rules, claims)
    evaluation.check()
    return dict(evaluation.issued)


def value(expression: str, claims=SGX, condition: str = ""):
    """Return what an expression comes to, or None when nothing is issued."""
    return issue(f'{condition} => issue(type="r", value={expression});', claims).get("r")


def failed(expression: str, condition: str = "", claims=SGX) -> str:
    evaluation = judge("=>permit();", f'{condition} => issue(type="r", value={expression});', claims)
    assert evaluation.issued == {}
    return why(evaluation)


def why(evaluation: Evaluation) -> str:
    """Return why a policy could not be evaluated."""
    assert evaluation.refusal is not None
    assert evaluation.refusal.code == "azure-policy.evaluation"
    return evaluation.refusal.found


def test_default_policies():
    evaluation = parse(DEFAULT_SGX_POLICY).evaluate(claims_of(SGX))
    assert evaluation.issued == {
        "is-debuggable": False, "sgx-mrsigner": "bb", "sgx-mrenclave": "aa", "product-id": 7, "svn": 3, "tee": "sgx"
    }  # fmt: skip
    assert evaluation.properties == {"x-ms-sgx-tcbidentifier": "azuredefault"}
    assert parse(DEFAULT_TDX_POLICY).evaluate(()).permitted


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ("=>permit();", None),
        ("", "azure-policy.no-permit"),
        ("=>deny();", "azure-policy.denied"),
        ("=>permit(); =>deny();", "azure-policy.denied"),
        ("=>deny(); =>permit();", "azure-policy.denied"),
        ('[type=="x-ms-sgx-svn", value>=3]=>permit();', None),
        ('[type=="x-ms-sgx-svn", value>3]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-svn", value<=3]=>permit();', None),
        ('[type=="x-ms-sgx-svn", value<3]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-svn", value==3]=>permit();', None),
        ('[type=="x-ms-sgx-svn", value!=3]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-svn", value=="3"]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-mrsigner", value>=0]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-is-debuggable", value==false]=>permit();', None),
        ('[type=="x-ms-sgx-is-debuggable", value==0]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-is-debuggable", value>=0]=>permit();', "azure-policy.no-permit"),
        ('[type=="$is-debuggable"]=>permit();', None),
        ('[type=="$svn", value==3] && [type=="$tee", value=="sgx"]=>permit();', None),
        ('[type=="x-ms-sgx-svn", valueType=="Integer", issuer=="AttestationService"]=>permit();', None),
        ('[type=="x-ms-sgx-svn", issuer=="CustomClaim"]=>permit();', "azure-policy.no-permit"),
        ('[type=="x-ms-sgx-svn", valueType!="String"]=>permit();', None),
        ('[type=="absent"] && [type=="x-ms-sgx-svn"]=>permit();', "azure-policy.no-permit"),
        ('![type=="absent"]=>permit();', None),
        ('![type=="x-ms-sgx-svn"]=>permit();', "azure-policy.no-permit"),
        ('=>add(type="a", value=1); [type=="a", issuer=="AttestationPolicy"]=>permit();', None),
        ('[type=="a"]=>permit(); =>add(type="a", value=1);', "azure-policy.no-permit"),
        ('a:[type=="x-ms-sgx-product-id"] && [type=="x-ms-sgx-svn", value<a.value]=>permit();', None),
        ('a:[type=="$svn"] && [type=="x-ms-sgx-product-id", value==a.value]=>permit();', "azure-policy.no-permit"),
        ('a:[type=="x-ms-sgx-mrsigner"] && [type=="$svn", value<a.value]=>permit();', "azure-policy.evaluation"),
        ("[value>=3]=>permit();", None),
    ],
)  # fmt: skip
def test_authorization(rules, code):
    evaluation = judge(rules)
    assert evaluation.permitted is (code is None)
    assert (evaluation.refusal and evaluation.refusal.code) == code


def test_refusal_raises_with_the_line():
    evaluation = parse("version=1.0;\nauthorizationrules{\n  => permit();\n  => deny();\n};").evaluate(())
    assert evaluation.trace == ("line 3: permit", "line 4: deny")
    with pytest.raises(PolicyError) as caught:
        evaluation.check()
    assert caught.value.code == "azure-policy.denied"
    assert caught.value.findings[0].field == "line 4"


def test_issued_and_added_claims():
    rules = '=>add(type="inner", value=5); c:[type=="inner"] => issue(type="outer", value=c.value);'
    assert issue(rules) == {"outer": 5}
    assert issue('c:[type=="x-ms-sgx-svn"] => issue(claim=c);') == {}, "the token has it anyway"
    assert issue('=>add(type="a", value=true); c:[type=="a"] => issue(claim=c);') == {"a": True}
    assert issue('=>issue(type="a", value=1); [type=="a"] => issue(type="b", value=2);') == {"a": 1, "b": 2}


def test_several_values_of_a_name_are_a_list_without_repeats():
    assert issue('=>issue(type="a", value=1); =>issue(type="a", value=true); =>issue(type="a", value=1);') == {
        "a": [1, True]
    }


def test_properties_are_no_claims_of_the_token_but_of_the_policy():
    evaluation = judge(
        '[type=="p"]=>permit();',
        '=>issueproperty(type="q", value=2);',
        configuration='=>issueproperty(type="p", value=1);',
    )
    assert (evaluation.properties, evaluation.issued) == ({"p": 1, "q": 2}, {})


def test_a_name_finds_all_claims_that_pass():
    claims = [Claim("a", 1), Claim("a", "one"), Claim("b", "one"), Claim("b", 2)]
    assert value("c.value", claims, 'c:[type=="a"]') == [1, "one"]
    assert value("c.value", claims, 'a:[type=="a"] && c:[type=="b", value==a.value]') == "one"
    assert value("c.value", claims, 'a:[type=="a"] && c:[type=="b", value!=a.value]') == 2
    assert value("c.type", claims, 'c:[value=="one"]') == ["a", "b"]
    assert value("c.issuer", claims, 'c:[type=="a"]') == "AttestationService"
    assert value("c.valueType", claims, 'c:[type=="a"]') == ["Integer", "String"]


def test_an_order_needs_one_integer():
    claims = [Claim("a", 1), Claim("a", 2), Claim("b", 3)]
    assert "one integer" in failed("1", 'a:[type=="a"] && [type=="b", value>a.value]', claims)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r'JmesPath("{\"foo\": \"bar\"}", "foo")', '"bar"'),
        (r'JmesPath("{\"values\": [0,1,2,3,4]}", "values[2]")', "2"),
        ('JmesPath("{}", "foo")', "null"),
        (r'JmesPath("[{\"b\":1,\"a\":\"é\"}]", "[0]")', '{"b":1,"a":"é"}'),
        ('JmesPath("[1,2]", "sum(@)")', "3"),
        (r"""JmesPath("[\"a\",\"b\"]", "join('-', @)")""", '"a-b"'),
        ('JsonToClaimValue("100")', 100),
        ('JsonToClaimValue("true")', True),
        (r'JsonToClaimValue("\"abc\"")', "abc"),
        (r'JsonToClaimValue("[0, \"abc\", true, null, 0]")', [0, "abc", True]),
        ('JsonToClaimValue("null")', None),
        ('JsonToClaimValue("[]")', None),
        ('AppendString("abc", "xyz")', "abcxyz"),
        ('AppendString("", "")', ""),
        ("NegateBool(true)", False),
        ("NegateBool(NegateBool(true))", True),
        ('IsSubsetOf(JsonToClaimValue("[1, true]"), JsonToClaimValue("[true, 2, 1]"))', True),
        ('IsSubsetOf(JsonToClaimValue("[1]"), true)', False),
        ('IsSubsetOf(JsonToClaimValue("[]"), 1)', True),
        ('ContainsOnlyValue(JsonToClaimValue("[true, true]"), true)', True),
        ('ContainsOnlyValue(JsonToClaimValue("[1, true]"), true)', False),
        ('ContainsOnlyValue(JsonToClaimValue("[]"), true)', False),
        (r'JsonToClaimValue(JmesPath("{\"a\": [{\"b\": \"x\"}]}", "a[*].b"))', "x"),
    ],
)
def test_functions(expression, expected):
    found = value(expression)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ('JmesPath("", "a")', "JSON"),
        ('JmesPath("{}", "")', "characters"),
        (f'JmesPath("{{}}", "{"a" * 4097}")', "characters"),
        ('JmesPath("{}", "a[")', "query"),
        ('JmesPath("{}", "nothing(@)")', "query"),
        ('JmesPath("[]", "&a")', "JSON lacks"),
        ('JmesPath("{}", 1)', "String"),
        ('JmesPath("NaN", "a")', "JSON"),
        ('JmesPath("{}", "' + "!" * 100 + 'a")', "deeper"),
        ('JmesPath("[1]", "' + "|".join(["[@,@][]"] * 40) + '")', "work"),
        ('JmesPath("[1]", "' + "|".join(["[@,@]"] * 40) + '")', "work"),
        (r'JmesPath("[\"' + "a" * 5000 + r'\"]", "[@[0]' + ",@[0]" * 300 + r"] | join(@[0], @)" + '")', "too long"),
        ('JmesPath("{}", "' + "(" * 4000 + '")', "query"),
        (r'JmesPath("[\"' + "9" * 5000 + r'\"]", "to_number(@[0])|[@]|sum(@)|ceil(@)")', ""),
        ("JmesPath(JmesPath(1, 2), 3)", "String"),
        ('JsonToClaimValue("abc")', "JSON"),
        ('JsonToClaimValue("1.5")', "fraction"),
        ('JsonToClaimValue("1.0")', "fraction"),
        ('JsonToClaimValue("{}")', "object"),
        ('JsonToClaimValue("[[]]")', "nested"),
        ('JsonToClaimValue("[{}]")', "object"),
        ('JsonToClaimValue("9223372036854775808")', "64 bits"),
        ("JsonToClaimValue(1)", "String"),
        ('JsonToClaimValue("[' + ",".join(map(str, range(1025))) + ']")', "1024"),
        ('AppendString("a", 1)', "String"),
        ('AppendString(JsonToClaimValue("null"), "a")', "one value"),
        (r'JsonToClaimValue("\"\\ud800\"")', "surrogate"),
        (r'JmesPath("[\"\\ud800\"]", "@")', "surrogate"),
        ('NegateBool("true")', "Boolean"),
        ('NegateBool(JsonToClaimValue("[true, false]"))', "one value"),
        ('ContainsOnlyValue(1, JsonToClaimValue("[1, 2]"))', "one value"),
    ],
)
def test_functions_that_fail_refuse(expression, reason):
    assert reason in failed(expression)


def test_texts_that_grow_are_bounded():
    rules = '=>add(type="a0", value="0123456789abcdef");' + "".join(
        f'c:[type=="a{n}"] => add(type="a{n + 1}", value=AppendString(c.value, c.value));' for n in range(13)
    )
    evaluation = judge("=>permit();", rules)
    assert "65536" in why(evaluation)


def test_json_that_grew_is_not_read():
    claims = [Claim("a", "[" + " " * (64 << 10) + "]")]
    assert "characters" in failed("JsonToClaimValue(c.value)", 'c:[type=="a"]', claims)


def test_claims_that_multiply_are_bounded():
    numbers = ",".join(map(str, range(1000)))
    rules = "".join(f'=>add(type="{n}", value=JsonToClaimValue("[{numbers}]"));' for n in range(5))
    assert "claims" in why(judge("=>permit();", rules))


def test_too_many_incoming_claims_refuse():
    evaluation = judge("=>permit();", claims=[Claim("a", n) for n in range(5000)])
    assert "claims" in why(evaluation)
    assert evaluation.refusal is not None
    assert evaluation.refusal.field == "claims"


def test_work_is_bounded():
    claims = [Claim("a", n) for n in range(1000)]
    assert "work" in why(judge('a:[type=="a"] && [type=="a", value==a.value] => permit();', "", claims))


def test_an_empty_value_compares_with_nothing():
    assert "empty" in failed("1", '[type=="x-ms-sgx-svn", value!=JsonToClaimValue("null")]')


def test_later_conditions_are_left_alone_where_an_earlier_one_fails():
    rule = '[type=="absent"] && [type=="a", value==JsonToClaimValue("no JSON")] => deny();'
    assert judge(rule + "=>permit();").permitted


def test_absence_of_what_was_never_issued():
    rules = '![type=="flag", issuer=="AttestationPolicy"] => issue(type="flag", value=false);'
    assert issue('=>issue(type="flag", value=true);' + rules) == {"flag": True}
    assert issue(rules) == {"flag": False}


def test_incoming_claims():
    claims = {
        **SGX, "iat": 1, "jti": "x", "x-ms-policy": {}, "nothing": None, "big": 1 << 63,
        "x-ms-sgx-collateral": {"b": 1, "a": [1.5]}, "rate": 1.5,
    }  # fmt: skip
    found = {claim.type: claim for claim in claims_of(claims)}
    assert not {"iat", "jti", "x-ms-policy", "nothing"} & found.keys()
    assert found["$svn"].value == 3
    assert found["x-ms-sgx-collateral"].value == found["$maa-attestationcollateral"].value == '{"a":[1.5],"b":1}'
    assert (found["big"].value, found["rate"].value) == (str(1 << 63), "1.5")
    assert all(claim.issuer is ClaimIssuer.SERVICE for claim in found.values())
    assert {name for name in found if name.startswith("$")} < OLD_NAMES.keys()


def test_a_policy_reads_json_claims():
    claims = {"x-ms-runtime": {"keys": [{"kid": "one"}, {"kid": "two"}]}}
    rule = 'c:[type=="x-ms-runtime"] => issue(type="kids", value=JsonToClaimValue(JmesPath(c.value, "keys[*].kid")));'
    assert issue(rule, claims) == {"kids": ["one", "two"]}


def test_digest_is_that_of_the_encoded_text():
    text = DEFAULT_SGX_POLICY
    encoded = base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    assert azure_policy_digest(text) == parse(text).digest == hashlib.sha256(encoded).digest()
    assert parse(text).version == "1.1"
    assert json.dumps(parse(text).evaluate(claims_of(SGX)).issued)
