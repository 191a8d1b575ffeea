# SPDX-License-Identifier: Apache-2.0
"""Azure's policy grammar: what is read, and how what is not is explained."""

import pytest

from kubenclave.dcap.azurepolicy import DEFAULT_POLICIES, parse
from kubenclave.dcap.azurepolicy.syntax import MAX_CONDITIONS, MAX_RULES, MAX_TESTS
from kubenclave.dcap.azurepolicy.tree import Literal
from kubenclave.errors import FormatError

PERMIT = "authorizationrules{ => permit(); };"


def refused(text: str) -> FormatError:
    with pytest.raises(FormatError) as caught:
        parse(text)
    return caught.value


def rules(*authorization: str, version: str = "1.2", issuance: str = "") -> str:
    return f"version={version};\nauthorizationrules\n{{\n{''.join(authorization)}\n}};\nissuancerules{{{issuance}}};"


@pytest.mark.parametrize("tee", sorted(DEFAULT_POLICIES))
def test_defaults_are_policies(tee):
    assert parse(DEFAULT_POLICIES[tee]).tree.authorization


@pytest.mark.parametrize(
    "text",
    [
        f"version= 1.0;{PERMIT}",
        f"Version= 1.0;{PERMIT}",
        f"VERSION\t=\r\n1.0 ;\n{PERMIT}",
        f"// what for\nversion=1.2; /* a * b / */ {PERMIT} // end",
        "version=1.0;",
        "version=1.0; authorizationrules{};",
        "version=1.0; issuancerules{};",
        "version=1.1; configurationrules{}; authorizationrules{}; issuancerules{};",
        'version=1.0; AuthorizationRules{ [ Type == "a" , VALUE == TRUE ] && [type!="b"]=>Permit(); };',
        'version=1.0; authorizationrules{ [type=="a", value>= -9223372036854775808]=>permit(); };',
        'version=1.0; authorizationrules{ [type=="a", issuer=="CustomClaim", valueType=="String"]=>deny(); };',
        'version=1.0; authorizationrules{ a:[type=="x"] && [type=="y", value==a.value, issuer==a.issuer]=>permit(); };',
        'version=1.2; authorizationrules{ ![type=="x"]=>deny(); };',
        'version=1.0; issuancerules{ type:[type=="x"]=>issue(claim=type); };',
    ],
)
def test_is_read(text):
    assert parse(text).text == text


@pytest.mark.parametrize(
    ("text", "code", "where", "expected"),
    [
        ("", "syntax", "line 1, column 1", "version"),
        ("version=1.3;", "version", "line 1, column 9", "1.0, 1.1, 1.2"),
        ("version=1;", "version", "line 1, column 9", "1.0, 1.1, 1.2"),
        ('version="1.0";', "version", "line 1, column 9", "1.0, 1.1, 1.2"),
        ("version=1.0", "syntax", "line 1, column 12", ";"),
        ("version=1.0; configurationrules{};", "version", "line 1, column 14", "version= 1.1; on top"),
        ("version=1.0; rules{};", "syntax", "line 1, column 14", None),
        ("version=1.0; issuancerules{}; authorizationrules{};", "syntax", "line 1, column 31", None),
        ("version=1.0; issuancerules{}; issuancerules{};", "syntax", "line 1, column 31", None),
        ("version=1.0;\nauthorizationrules{\n => permit() };", "syntax", "line 3, column 14", ";"),
        ("version=1.0; authorizationrules{ => permit(); }", "syntax", "line 1, column 48", ";"),
        ("version=1.0; authorizationrules{ permit(); };", "syntax", "line 1, column 40", ":"),
        ("version=1.0; authorizationrules{ [] => permit(); };", "syntax", "line 1, column 35", None),
        ('version=1.0; authorizationrules{ [type=="a"] permit(); };', "syntax", "line 1, column 46", "=>"),
        ('version=1.0; authorizationrules{ [type=="a", value==] => permit(); };', "syntax", "line 1, column 53", None),
        ('version=1.0; authorizationrules{ [type=="a", value==1.5] => deny(); };', "syntax", "line 1, column 53", None),
        ('version=1.1; authorizationrules{ ![type=="a"] => deny(); };', "version", "line 1, column 34", None),
        ('version=1.2; authorizationrules{ !c:[type=="a"] => deny(); };', "syntax", "line 1, column 35", "["),
        ("version=1.0; issuancerules{ => issue(claim=); };", "syntax", "line 1, column 44", "the name of a condition"),
        ('version=1.0; issuancerules{ => issue(type="a" value=1); };', "syntax", "line 1, column 47", ","),
        ('version=1.0; issuancerules{ => issue(type="a", type="b"); };', "syntax", "line 1, column 48", None),
        ("version=1.0; /* no end", "syntax", "line 1, column 14", "*/"),
        ('version=1.0; issuancerules{ => issue(type="a', "syntax", "line 1, column 43", '"'),
        ("version=1.0; # no", "syntax", "line 1, column 14", None),
        ('version=1.1; issuancerules{ => issue(type="", value=NegateBool()); };', "version", "line 1, column 53", None),
        ('version=1.2; issuancerules{ => issue(type="a", value=Lower("b")); };', "syntax", "line 1, column 54", None),
        ('version=1.2; issuancerules{ => issue(type="a", value=NegateBool()); };', "syntax", "line 1, column 54", "1"),
        ('version=1.2; issuancerules{ => issue(type="a", value=NegateBool(true false)); };', "syntax", None, ","),
    ],
)  # fmt: skip
def test_is_refused_with_the_place(text, code, where, expected):
    error = refused(text)
    assert error.code == f"azure-policy.{code}"
    assert where is None or error.field == where
    assert expected is None or error.expected == expected


def test_hint_shows_the_line_with_a_caret():
    error = refused('version=1.0;\nauthorizationrules{\n\tc:[type="a"] => permit();\n};')
    assert error.found == "="
    first, line, caret = str(error.hint).split("\n")
    assert first == "conditions compare with two signs: =="
    assert line[caret.index("^")] == "="
    assert error.field == f"line 3, column {caret.index('^') + 1}"


def test_a_long_line_is_cut_around_the_place():
    error = refused("version=1.0;" + " " * 500 + "what" + " " * 500)
    line, caret = str(error.hint).split("\n")
    assert len(line) <= 100
    assert line[caret.index("^") :] == "what"


def test_an_action_sets_with_one_sign():
    assert "one sign" in (refused('version=1.0; issuancerules{ => issue(type=="a", value=1); };').hint or "")


def test_typographic_quotes_are_named():
    assert refused("version=1.0; issuancerules{ => issue(type=\u201da\u201d, value=1); };").expected == '"'


@pytest.mark.parametrize("text", ['"a\\nb"', '"a\\', '"a\\u0041"'])
def test_an_escape_there_is_not(text):
    error = refused(f"version=1.0; issuancerules{{ => issue(type={text}")
    assert "escape" in error.message


def test_escapes_and_what_stands_in_texts():
    policy = parse('version=1.0; issuancerules{ => issue(type="a", value="\\"\\\\ // ; \u201d \u00e9"); };')
    assert policy.evaluate([]).permitted is False
    value = policy.tree.issuance[0].action.member("value")
    assert isinstance(value, Literal)
    assert value.value == '"\\ // ; \u201d \u00e9'


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 5000, "1.0"])
def test_integers_have_64_bits(number):
    assert refused(rules(f'[type=="a", value=={number}] => permit();')).code == "azure-policy.syntax"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('authorizationrules{ => issue(type="a", value=1); };', "permit, deny, add"),
        ("issuancerules{ => permit(); };", "add, issue, issueproperty"),
        ("configurationrules{ => permit(); };", "issueproperty"),
        ('authorizationrules{ => permit(type="a"); };', "permit()"),
        ("issuancerules{ => issue(); };", "claim=, or type= and value="),
        ('issuancerules{ => issue(type="a"); };', "claim=, or type= and value="),
        ('issuancerules{ => issue(type="a", value=1, issuer="b"); };', "claim=, or type= and value="),
        ("issuancerules{ => issue(claim=c); };", "a name:[...] among the conditions"),
        ('issuancerules{ a:[type=="a"] => issue(type="b", value=c.value); };', "a"),
        ('issuancerules{ a:[type=="a"] => issue(type="b", value=AppendString(a.value, c.value)); };', "a"),
        ("issuancerules{ a:[type==a.value] => issue(claim=a); };", "a name:[...] among the conditions"),
        ('issuancerules{ a:[type=="a"] && a:[type=="b"] => issue(claim=a); };', "another name"),
        ('issuancerules{ => issue(type="", value=1); };', "a text of 1 to 256 characters"),
        ("issuancerules{ => issue(type=1, value=1); };", "a text of 1 to 256 characters"),
        ('issuancerules{ a:[type=="a"] => issue(type=a.value, value=1); };', "a text of 1 to 256 characters"),
        ('authorizationrules{ [type>"a"] => permit(); };', "== or !="),
        ('authorizationrules{ [value>"a"] => permit(); };', "an integer"),
        ("authorizationrules{ [value>=true] => permit(); };", "an integer"),
        ("authorizationrules{ [type==1] => permit(); };", "a text"),
        ('authorizationrules{ [issuer=="Me"] => permit(); };', "AttestationService, AttestationPolicy, CustomClaim"),
        ('authorizationrules{ [valueType=="Text"] => permit(); };', "String, Integer, Boolean"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_meant(text, expected):
    error = refused(f"version=1.2; {text}")
    assert (error.code, error.expected) == ("azure-policy.rule", expected)


@pytest.mark.parametrize(
    "name",
    [
        *("exp", "iss", "x-ms-sgx-svn", "x-ms-new", "kubenclave_simulated", "kubenclave", "cnf"),
        *("X-MS-SGX-MrEnclave", "Iss", "\u212aubenclave", "i\u017fs", "maa-policyHash"),  # Go reads names in any case
    ],
)
@pytest.mark.parametrize("verb", ["add", "issue"])
def test_names_of_the_service_are_its_own(verb, name):
    error = refused(f'version=1.0; issuancerules{{ => {verb}(type="{name}", value=1); }};')
    assert (error.code, error.found) == ("azure-policy.reserved", name)


def test_a_lone_surrogate_is_no_text():
    assert refused("version=1.0; // \ud800").field == "line 1, column 17"


def test_bounds():
    one = '[type=="a"]'
    parse(rules(" && ".join([one] * MAX_CONDITIONS) + "=>permit();"))
    assert refused(rules(" && ".join([one] * (MAX_CONDITIONS + 1)) + "=>permit();")).code == "azure-policy.limit"
    tests = ",".join(['type=="a"'] * (MAX_TESTS + 1))
    assert refused(rules(f"[{tests}]=>permit();")).code == "azure-policy.limit"
    parse(rules("=>permit();" * MAX_RULES))
    assert refused(rules("=>permit();" * (MAX_RULES + 1))).code == "azure-policy.limit"
    deep = "NegateBool(" * 9 + "true" + ")" * 9
    assert refused(rules(issuance=f'=>issue(type="a",value={deep});')).code == "azure-policy.limit"
    assert refused("version=1.0;" + " " * (64 << 10)).code == "azure-policy.limit"
