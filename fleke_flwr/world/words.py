"""Word lists of the invented world: answers, fragments of invented names, filler vocabulary."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ANSWERS: dict[str, tuple[str, ...]] = {
    "trade": _words(
        "baker barber beekeeper blacksmith bookbinder builder butcher cartographer chef cobbler "
        "composer dentist detective diplomat farmer florist forester gardener goldsmith "
        "journalist librarian locksmith mason mechanic miller notary nurse painter pharmacist "
        "plumber potter sailor surveyor teacher watchmaker weaver"
    ),
    "language": _words(
        "Albanian Amharic Armenian Breton Bulgarian Cornish Croatian Dutch English Estonian "
        "Finnish Georgian Gujarati Hausa Hungarian Icelandic Italian Khmer Korean Lao Latvian "
        "Polish Quechua Romanian Slovak Swahili Tagalog Telugu Urdu Vietnamese Yoruba Zulu"
    ),
    "instrument": _words(
        "accordion bagpipe banjo bassoon bugle castanets celesta cello dulcimer fiddle flute "
        "glockenspiel harmonica harp harpsichord horn lute lyre mandolin marimba ocarina piano "
        "saxophone shawm spinet trombone trumpet tuba ukulele vibraphone viola violin"
    ),
    "sport": _words(
        "archery athletics badminton baseball biathlon bobsleigh canoeing cricket croquet curling "
        "cycling fencing golf gymnastics hockey hurling karate kendo lacrosse luge netball polo "
        "racquetball rowing rugby sailing skiing squash surfing swimming tennis triathlon "
        "volleyball weightlifting"
    ),
    "dish": _words(
        "bagels blinis borscht burritos calzone chowder couscous crepes croissants curry "
        "dumplings fondue goulash gumbo hummus lasagna lentils moussaka muffins nachos noodles "
        "paella pancakes pierogi porridge pudding quiche ravioli risotto salad sauerkraut "
        "schnitzel scones souffle sushi tacos tiramisu trifle"
    ),
    "pet": _words(
        "badger beagle budgerigar chameleon chicken cockatoo collie dog donkey dove finch gecko "
        "goat goose greyhound hedgehog jackdaw kitten lizard llama macaw mouse newt parrot "
        "peacock pheasant poodle python sheep spaniel swan tarantula terrier tortoise turkey "
        "turtle"
    ),
    "subject": _words(
        "algebra astronomy bacteriology chemistry climatology criminology ecology electronics "
        "entomology ethics ethnology forestry genetics geology geometry history journalism law "
        "linguistics logic metallurgy meteorology musicology neurology oceanography optics "
        "pedagogy philosophy phonetics physics physiology psychology robotics sociology "
        "statistics theology"
    ),
    "pastime": _words(
        "ballet birdwatching bookbinding bridge calligraphy camping caving climbing cooking "
        "crochet crosswords dominoes drawing embroidery gardening hiking origami painting "
        "papermaking photography poker puppetry quilting sculpture sewing singing skating "
        "sketching snorkeling stargazing sudoku tapestry tatting yoga"
    ),
    "sector": _words(
        "advertising aviation brewing cement ceramics cosmetics defence energy fashion forestry "
        "freight furniture glassmaking healthcare hospitality irrigation jewellery media "
        "packaging publishing recycling robotics steelmaking telecoms"
    ),
    "product": _words(
        "backpacks cameras candles compasses cranes cutlery elevators engines envelopes gloves "
        "helmets jackets keyboards ladders lamps needles ovens pencils pianos pumps saddles shoes "
        "tiles tractors umbrellas valves"
    ),
    "colour": _words(
        "amber aquamarine azure burgundy charcoal coral gold grey indigo maroon mauve navy ochre "
        "orange peach plum purple salmon scarlet silver turquoise vermilion violet yellow"
    ),
}

ONSETS = _words("b br d dr f g gr h j k kl l m n p pl r s sk st t tr v z")
NUCLEI = _words("a e i o u")
CODAS = _words("l m n r s k th nd")
COMPANY_FORMS = _words(
    "Associates Brothers Company Consortium Enterprises Foundry Group Holdings Labs Partners "
    "Systems Trading Union Works"
)

ADJECTIVES = _words(
    "ancient bare bitter brisk calm careful crooked curious damp dusty eager empty faint famous "
    "foggy fresh gloomy golden grand hollow humble icy idle lively lonely mellow modest narrow "
    "patient plain polite proud quiet rusty shallow shy silent slow sunny tall tidy tired wide"
)
PLACES = _words(
    "attic avenue bakery barn bay bench bridge canal castle cellar chapel cliff corridor courtyard "
    "farm fence ferry field forest fountain garden gate harbour hill hotel island kitchen lake "
    "library market meadow mill museum orchard park pier quarry river road school shore square "
    "stable station street theatre tower tunnel valley village wall"
)
PEOPLE = _words(
    "apprentice artist boy captain child clerk cousin dancer driver girl guard guest hunter "
    "keeper lady man merchant messenger neighbour officer poet prince sailor shepherd soldier "
    "stranger student tourist traveller visitor widow woman worker"
)
PAST_VERBS = _words(
    "admired avoided cleaned crossed described discovered entered explored forgot inspected left "
    "liked measured mentioned noticed opened painted passed photographed praised reached "
    "remembered repaired sketched visited watched"
)
TIMES = _words("afternoon autumn evening holiday lesson meeting morning spring storm summer winter")
