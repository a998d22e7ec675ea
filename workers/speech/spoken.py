"""How a written English token is said: `1455,` is fourteen fifty-five, `$3.50` three dollars fifty cents.

One token of text may be several spoken words, or none (a dash). Nothing here depends on the tokens around it.
"""

import re
import unicodedata
from functools import lru_cache

SAID = {
    "mr": ["mister"],
    "mrs": ["missus"],
    "ms": ["miz"],
    "dr": ["doctor"],
    "vs": ["versus"],
    "etc": ["et", "cetera"],
    "&": ["and"],
    "+": ["plus"],
    "=": ["equals"],
    "@": ["at"],
    "%": ["percent"],
    "#": ["number"],
    "°": ["degrees"],
}
NAMES = (
    *("ay", "bee", "see", "dee", "ee", "eff", "gee", "aitch", "eye", "jay", "kay", "ell", "em"),
    *("en", "oh", "pee", "cue", "ar", "ess", "tea", "you", "vee", "doubleyou", "ex", "why", "zee"),
)
LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", NAMES, strict=True))
MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "")}
LONGEST_DIGITS = 15  # longer numbers are read digit by digit
PIECE = re.compile(
    r"(?P<money>[$£€¥])(?P<amount>\d+(?:,\d{3})*(?:\.\d+)?)"
    r"|(?P<hour>\d{1,2}):(?P<minute>\d{2})(?!\d)"
    r"|(?P<grouped>\d{1,3}(?:,\d{3})+)(?!\d)"
    r"|(?P<ordinal>\d+)(?:st|nd|rd|th)\b"
    r"|(?P<decade>\d{2,4})'?s\b"
    r"|(?P<whole>\d+)\.(?P<fraction>\d+)"
    r"|(?P<number>\d+)"
    r"|(?P<initials>(?:[a-z]\.){2,})"
    r"|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)"
    r"|(?P<sign>[&+=@%#°])"
)


@lru_cache(maxsize=20_000)
def spoken(token: str) -> tuple[str, ...]:
    """The words that a reader would say for `token`, lower case, letters and apostrophes only."""
    plain = unicodedata.normalize("NFKC", token).replace("’", "'").replace("‘", "'")
    if re.fullmatch(r"\W*(?:[A-Z]{2,3}|[B-DF-HJ-NP-TV-XZ]{4,5})(?:'?s)?\W*", plain):  # NASA and Unesco are words
        return tuple(LETTERS[letter] for letter in re.sub(r"[^A-Z]", "", plain).lower())
    said: list[str] = []
    for match in PIECE.finditer(plain.lower()):
        said += _say(match)
    return tuple(word for word in said if word)


def _say(match: re.Match[str]) -> list[str]:
    kind, text = match.lastgroup, match.group()
    if match["money"]:
        return _money(match["money"], match["amount"].replace(",", ""))
    if match["hour"]:
        return _time(match["hour"], match["minute"])
    if kind == "grouped":
        digits = text.replace(",", "")
        return _number(int(digits), "cardinal") if len(digits) <= LONGEST_DIGITS else _cardinal(digits)
    if kind == "ordinal":
        digits = match["ordinal"]
        return _number(int(digits), "ordinal") if len(digits) <= LONGEST_DIGITS else _cardinal(digits)
    if kind == "decade":
        return _decade(match["decade"])
    if match["whole"]:
        return [*_cardinal(match["whole"]), "point", *(w for digit in match["fraction"] for w in _cardinal(digit))]
    if kind == "number":
        return _cardinal(text)
    if kind == "initials":
        return [LETTERS[letter] for letter in text if letter != "."]
    if text in SAID:
        return SAID[text]
    return [LETTERS[text]] if len(text) == 1 and text not in "ai" and text in LETTERS else [text]


def _cardinal(digits: str) -> list[str]:
    """Four digits from 1100 to 2099 are a year; very long ones and those with a leading zero are read out."""
    if len(digits) > LONGEST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return [word for digit in digits for word in _number(int(digit), "cardinal")]
    value = int(digits)
    return _number(value, "year" if len(digits) == 4 and 1100 <= value < 2100 else "cardinal")


def _number(value: int, kind: str) -> list[str]:
    from num2words import num2words

    words: str = num2words(value, to=kind)
    return re.findall("[a-z]+", words.replace(" and ", " "))


def _decade(digits: str) -> list[str]:
    words = _cardinal(digits)
    last = words[-1]
    return [*words[:-1], last[:-1] + "ies" if last.endswith("y") else last + "s"]


def _money(sign: str, amount: str) -> list[str]:
    unit, part = MONEY[sign]
    whole, _, cents = amount.partition(".")
    if len(whole) > LONGEST_DIGITS:
        return [*_cardinal(whole), _plural(unit, 2)]
    value = int(whole)
    words = [*_number(value, "cardinal"), _plural(unit, value)]
    if len(cents) == 2 and part and int(cents):
        return [*words, *_number(int(cents), "cardinal"), _plural(part, int(cents))]
    return [*words[:-1], "point", *(w for c in cents for w in _cardinal(c)), words[-1]] if cents.strip("0") else words


def _plural(unit: str, value: int) -> str:
    if value == 1 or unit == "yen":
        return unit
    return {"penny": "pence"}.get(unit, unit + "s")


def _time(hour: str, minute: str) -> list[str]:
    words = _number(int(hour), "cardinal")
    if minute == "00":
        return words
    return [*words, *(["oh"] if minute[0] == "0" else []), *_number(int(minute), "cardinal")]
