"""Plurals of nouns and forms of verbs, regular and irregular."""

IRREGULAR_PLURALS = {
    "person": "people", "child": "children", "man": "men", "gentleman": "gentlemen", "woman": "women",
    "policeman": "policemen", "thief": "thieves", "knife": "knives",
}  # fmt: skip
# base: past, participle
IRREGULAR_VERBS = {
    "buy": ("bought", "bought"), "sell": ("sold", "sold"), "steal": ("stole", "stolen"), "get": ("got", "got"),
    "find": ("found", "found"), "lose": ("lost", "lost"), "build": ("built", "built"),
    "hide": ("hid", "hidden"), "throw": ("threw", "thrown"), "catch": ("caught", "caught"),
    "meet": ("met", "met"), "feed": ("fed", "fed"), "eat": ("ate", "eaten"), "write": ("wrote", "written"),
    "send": ("sent", "sent"), "wear": ("wore", "worn"), "drive": ("drove", "driven"), "leave": ("left", "left"),
    "sleep": ("slept", "slept"), "weep": ("wept", "wept"), "speak": ("spoke", "spoken"), "run": ("ran", "run"),
    "swim": ("swam", "swum"), "win": ("won", "won"), "sing": ("sang", "sung"), "fall": ("fell", "fallen"),
}  # fmt: skip
DOUBLED_CONSONANT = {"scrub": "b", "drag": "g", "grab": "b", "spot": "t", "grin": "n"}


def plural_of(noun: str) -> str:
    """``boxes`` for ``box``."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "ato")) else "s")


def third_person_of(verb: str) -> str:
    """``carries`` for ``carry``."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "ch", "sh")) else "s")


def past_of(verb: str) -> str:
    """``wrote`` for ``write``."""
    return IRREGULAR_VERBS[verb][0] if verb in IRREGULAR_VERBS else _regular_past(verb)


def participle_of(verb: str) -> str:
    """``written`` for ``write``."""
    return IRREGULAR_VERBS[verb][1] if verb in IRREGULAR_VERBS else _regular_past(verb)


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + DOUBLED_CONSONANT.get(verb, "") + "ed"
