"""The words of the embedded world, as data.

Words that mean the same are joined by a slash; the first of them names the concept, so ``physician`` belongs
to the concept ``doctor``. No word belongs to two concepts, and no form of one word equals a form of another.
Everything below the tables only turns them into dictionaries.
"""

from dataclasses import dataclass, field

# kind: concepts of that kind. A kind is itself a noun, and may appear as a concept of a wider kind.
NOUN_TABLE = """
person:     artist worker official scholar relative adult child/kid doctor/physician nurse lawyer/attorney
            thief/robber tourist/traveler customer/client manager/boss pilot/aviator neighbor
artist:     painter singer/vocalist actor/performer writer/author dancer musician
worker:     farmer baker chef driver/chauffeur clerk tailor builder/carpenter
official:   officer/policeman judge/magistrate soldier/trooper mayor
scholar:    teacher/instructor student/pupil scientist/researcher historian
relative:   mother/mom father/dad uncle aunt cousin
child:      boy/lad girl/lass
adult:      man/gentleman woman/lady
animal/creature: bird dog/hound cat horse cow pig/hog rabbit/bunny goat donkey monkey
bird:       sparrow owl parrot eagle chicken/hen
object/item: vehicle garment tool instrument document sofa/couch table lamp mirror box/crate bag/sack rug/carpet
vehicle:    car/automobile truck/lorry bicycle/bike boat airplane/jet wagon/cart tractor
garment:    coat/jacket hat/cap dress/gown sweater/jumper shirt
tool:       hammer axe/hatchet knife shovel/spade ladder
instrument: guitar piano violin/fiddle trumpet
document:   letter story/tale poem book/novel report newspaper
fruit:      apple pear orange banana peach
vegetable:  carrot potato/spud onion tomato
dessert:    cake pie cookie/biscuit
building:   house shop/store school hospital/clinic church/chapel hotel/inn restaurant/diner library museum
            castle/fortress prison/jail bank tower barn
"""

OUTDOOR_PLACES = """
park garden/yard street/road forest/woodland field/meadow beach/shore village harbor/port market river/stream
"""

NAMES = "anna ben clara david emma frank grace henry julia oscar paula victor"

# verb | who does it | to what (empty: nothing) | opposite | broader verb | s: a state, takes no adverb of manner
VERB_TABLE = """
buy/purchase      | person        | object animal fruit vegetable dessert building | sell     | get   |
sell              | person        | object animal fruit vegetable dessert building | buy      |       |
steal             | person        | object animal fruit vegetable dessert          |          | get   |
borrow            | person        | object animal                                  |          | get   |
get/obtain        | person        | object animal fruit vegetable dessert building |          |       |
find/discover     | person animal | object person animal building                  | lose     |       |
lose              | person        | object animal                                  | find     |       | s
repair/fix        | person        | vehicle tool instrument building               | damage   |       |
damage/ruin       | person        | object building                                | repair   |       |
build/construct   | person        | vehicle building                               | destroy  |       |
destroy/demolish  | person        | vehicle building instrument                    | build    |       |
paint             | person        | vehicle building animal person                 |          |       |
wash/scrub        | person        | object animal fruit vegetable                  |          |       |
carry/transport   | person        | object animal fruit vegetable dessert          |          |       |
push/shove        | person animal | object person animal                           | pull     |       |
pull/drag         | person animal | object person animal                           | push     |       |
hide/conceal      | person animal | object dessert fruit                           | reveal   |       |
reveal/expose     | person        | object                                         | hide     |       |
throw/toss        | person        | tool garment fruit vegetable dessert           | catch    |       |
catch/grab        | person animal | tool garment fruit animal                      | throw    |       |
inspect/examine   | person        | object building animal fruit vegetable         |          |       |
notice/spot       | person animal | object person animal building                  | ignore   |       | s
ignore/overlook   | person        | object person animal building                  | notice   |       | s
love/adore        | person animal | person animal building instrument dessert      | hate     |       | s
hate/despise      | person animal | person animal building instrument dessert      | love     |       | s
help/assist       | person        | person animal                                  | hinder   |       |
hinder/obstruct   | person animal | person animal                                  | help     |       |
praise/applaud    | person        | person document                                | blame    |       |
blame/condemn     | person        | person document                                | praise   |       |
attack/assault    | person animal | person animal building                         | defend   |       |
defend/protect    | person animal | person animal building                         | attack   |       |
hire/employ       | person        | person                                         | dismiss  |       |
dismiss/fire      | person        | person                                         | hire     |       |
follow/trail      | person animal | person animal vehicle                          |          |       |
chase/pursue      | person animal | person animal vehicle                          |          | follow |
greet/welcome     | person        | person                                         |          |       |
meet/encounter    | person        | person animal                                  | avoid    |       |
avoid/evade       | person animal | person animal building                         | meet     |       |
visit             | person        | person building                                |          |       |
trust             | person        | person                                         | doubt    |       | s
doubt/distrust    | person        | person                                         | trust    |       | s
feed              | person        | animal child                                   |          |       |
eat/consume       | person animal | fruit vegetable dessert                        |          |       |
devour            | person animal | fruit vegetable dessert                        |          | eat   |
cook/prepare      | person        | vegetable dessert                              |          |       |
taste/sample      | person        | fruit vegetable dessert                        |          |       |
write/compose     | person        | document                                       |          |       |
copy/duplicate    | person        | document                                       |          |       |
translate         | person        | document                                       |          |       |
print/publish     | person        | document                                       |          |       |
send/mail         | person        | document garment                               | receive  |       |
receive           | person        | document garment                               | send     | get   |
wear              | person        | garment                                        |          |       | s
drive/steer       | person        | vehicle                                        |          |       |
enter             | person animal | building                                       | leave    |       |
leave/exit        | person animal | building                                       | enter    |       |
sleep/doze        | person animal |                                                |          | rest  |
laugh/chuckle     | person        |                                                | weep     |       |
weep/cry          | person        |                                                | laugh    |       |
arrive            | person animal |                                                | depart   |       |
depart            | person        |                                                | arrive   |       |
shout/yell        | person        |                                                | whisper  | speak |
whisper/murmur    | person        |                                                | shout    | speak |
speak/talk        | person        |                                                |          |       |
walk/stroll       | person animal |                                                |          | move  |
run/sprint        | person animal |                                                |          | move  |
swim              | person animal |                                                |          | move  |
dance             | person        |                                                |          | move  |
move              | person animal |                                                | rest     |       |
smile/grin        | person        |                                                | frown    |       |
frown/scowl       | person        |                                                | smile    |       |
work/toil         | person        |                                                | rest     |       |
rest/relax        | person animal |                                                | work     |       |
win/triumph       | person        |                                                | fail     |       |
fail              | person        |                                                | win      |       |
sing              | person bird   |                                                |          |       |
wait/linger       | person animal |                                                |          |       |
fall/tumble       | person animal |                                                |          |       |
"""

# what it describes: concepts, opposites joined by <>
ADJECTIVE_TABLE = """
person:    happy/glad <> sad/unhappy, rich/wealthy <> poor, smart/clever <> foolish/silly, tall <> short,
           brave/courageous <> timid, strong <> weak/feeble, young <> elderly/aged, kind <> cruel,
           polite/courteous <> rude, angry/furious <> calm, famous/renowned, tired/weary, lazy/idle, honest
animal:    big/large <> small/little, wild <> tame, hungry, noisy, fast/quick <> slow, friendly
object:    new <> old/ancient, expensive/costly <> cheap, beautiful/lovely <> ugly, heavy <> light, strange/odd,
           red, blue, green, black, white, dirty/filthy, big/large <> small/little
fruit:     fresh <> rotten, sweet <> sour, ripe
vegetable: fresh <> rotten, big/large <> small/little
dessert:   tasty/delicious, sweet, fresh
building:  new <> old/ancient, big/large <> small/little, beautiful/lovely <> ugly, strange/odd, empty
"""

MANNERS = """
quickly/rapidly <> slowly, quietly/silently <> loudly/noisily, carefully/cautiously <> carelessly,
happily/cheerfully <> sadly, gently/softly <> roughly, secretly <> openly/publicly, eagerly/keenly <> reluctantly
"""

TIMES = {
    "past": ("yesterday", "last week", "last night", "last year"),
    "present": ("at night", "in winter", "in summer", "on weekdays"),
    "future": ("tomorrow", "next week", "next year"),
}

# determiner concept -> words; which number the noun takes after it
SINGULAR_DETERMINERS = {"a": ("a",), "the": ("the",), "this": ("this",), "that": ("that",),
                        "every": ("every", "each"), "no": ("no",)}  # fmt: skip
PLURAL_DETERMINERS = {"the": ("the",), "these": ("these",), "those": ("those",), "some": ("some",),
                      "two": ("two",), "three": ("three",), "many": ("many", "numerous"),
                      "several": ("several",), "all": ("all",)}  # fmt: skip

PREPOSITIONS = {"in": ("in", "inside"), "near": ("near", "beside"), "behind": ("behind",), "around": ("around",)}
INDOORS, OUTDOORS = ("in", "near", "behind"), ("near", "around")
SOMEONE = ("someone", "somebody")
FUNCTION_WORDS = ["an", "not", "does", "do", "did", "will", "is", "are", "was", "were", "be", "by"]


@dataclass(frozen=True)
class Verb:
    """Who may do it to what, and the verbs it is related to; ``objects`` is empty for an intransitive verb."""

    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    opposite: str | None
    broader: str | None
    takes_manner: bool


@dataclass
class Lexicon:
    """The tables as dictionaries, all keyed by concept."""

    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parent: dict[str, str] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    verbs: dict[str, Verb] = field(default_factory=dict)
    adjectives: dict[str, list[str]] = field(default_factory=dict)
    opposite: dict[str, str] = field(default_factory=dict)
    manners: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    _ancestors: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _descendants: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def add(self, group: str) -> str:
        """Enter a synonym group such as ``doctor/physician`` and return its concept."""
        words = tuple(group.split("/"))
        self.synonyms[words[0]] = max(words, self.synonyms.get(words[0], ()), key=len)
        return words[0]

    def add_opposites(self, pairs: str) -> list[str]:
        """Enter ``happy/glad <> sad, tall <> short, honest`` and return the concepts."""
        concepts = []
        for pair in pairs.split(","):
            sides = [self.add(side.strip()) for side in pair.split("<>")]
            if len(sides) == 2:
                self.opposite.update({sides[0]: sides[1], sides[1]: sides[0]})
            concepts += sides
        return concepts

    def ancestors(self, noun: str) -> list[str]:
        """The noun itself, its kind, the kind of its kind, and so on."""
        if noun not in self._ancestors:
            wider = self.ancestors(self.parent[noun]) if noun in self.parent else []
            self._ancestors[noun] = [noun, *wider]
        return self._ancestors[noun]

    def is_any(self, noun: str, kinds: tuple[str, ...]) -> bool:
        """Whether the noun belongs to one of the kinds."""
        return not set(kinds).isdisjoint(self.ancestors(noun))

    def descendants(self, kind: str) -> list[str]:
        """All nouns strictly below ``kind``."""
        if kind not in self._descendants:
            below = self.children.get(kind, [])
            self._descendants[kind] = below + [noun for child in below for noun in self.descendants(child)]
        return self._descendants[kind]


def _entries(table: str) -> list[tuple[str, str]]:
    """``(head, rest)`` of each ``head: rest`` entry; an entry may run over several lines."""
    entries: list[tuple[str, str]] = []
    for line in table.strip().splitlines():
        head, colon, rest = line.partition(":")
        if colon:
            entries.append((head.strip(), rest))
        else:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line}")
    return entries


def build_lexicon() -> Lexicon:
    """Read the tables of this module."""
    lexicon = Lexicon()
    for head, rest in _entries(NOUN_TABLE):
        kind = lexicon.add(head)
        for noun in map(lexicon.add, rest.split()):
            lexicon.parent[noun] = kind
            lexicon.children.setdefault(kind, []).append(noun)
    for line in VERB_TABLE.strip().splitlines():
        group, subjects, objects, opposite, broader, state = (cell.strip() for cell in line.split("|"))
        lexicon.verbs[lexicon.add(group)] = Verb(
            tuple(subjects.split()), tuple(objects.split()), opposite or None, broader or None, not state
        )
    for kind, rest in _entries(ADJECTIVE_TABLE):
        lexicon.adjectives[kind] = lexicon.add_opposites(rest)
    lexicon.manners = lexicon.add_opposites(MANNERS)
    lexicon.places = [lexicon.add(group) for group in OUTDOOR_PLACES.split()] + lexicon.children["building"]
    lexicon.names = [lexicon.add(name) for name in NAMES.split()]
    for words in (SOMEONE, *SINGULAR_DETERMINERS.values(), *PLURAL_DETERMINERS.values(), *PREPOSITIONS.values()):
        lexicon.add("/".join(words))
    return lexicon


LEXICON = build_lexicon()
