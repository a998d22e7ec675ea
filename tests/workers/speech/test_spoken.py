import pytest

from workers.speech.spoken import spoken


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("Hello,", "hello"),
        ("don’t", "don't"),
        ("well-known", "well known"),
        ("1455,", "fourteen fifty five"),
        ("1,234", "one thousand two hundred thirty four"),
        ("21st", "twenty first"),
        ("1990s", "nineteen nineties"),
        ("$3.50", "three dollars fifty cents"),
        ("£1", "one pound"),
        ("$2.5", "two point five dollars"),
        ("5%", "five percent"),
        ("10:05", "ten oh five"),
        ("3.14", "three point one four"),
        ("007", "zero zero seven"),
        ("10-20", "ten twenty"),
        ("FBI", "eff bee eye"),
        ("i.e.", "eye ee"),
        ("Mr.", "mister"),
        ("&", "and"),
        ("a", "a"),
        ("—", ""),
        ("...", ""),
    ],
)
def test_a_token_is_said(token: str, said: str) -> None:
    assert " ".join(spoken(token)) == said


@pytest.mark.parametrize(
    "token",
    [
        "9" * 400,
        "1" * 40 + "th",
        "$" + "9" * 50,
        ",".join(["999"] * 150),
        "9" * 400 + "th",
        "99:99",
        "２０２４",
        "½",
        "\u0663",
        "🙂",
        "²",
    ],
)
def test_odd_tokens_do_no_harm(token: str) -> None:
    assert all(word.isalpha() for word in spoken(token))
