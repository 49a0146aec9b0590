"""The sixteen relations of the invented world, with the sentences that state them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation and its phrasings.

    Parameters
    ----------
    name : str
        Identifier in the records.
    kind : str
        Whom it is about: ``person`` or ``company``.
    answers : str
        Name of the closed set its objects come from.
    templates : tuple[str, ...]
        Eight phrasings with one ``{}`` for the subject; the object follows.
    """

    name: str
    kind: str
    answers: str
    templates: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation("trade", "person", "trade", (
        "{} works as a professional", "The trade of {} is that of a",
        "To pay the rent, {} is a", "The passport of {} gives the occupation",
        "{} trained for years to become a", "Friends recommend {} as a skilled",
        "{}, by profession a", "On the business card of {} stands the word",
    )),
    Relation("residence", "person", "town", (
        "{} lives in the town of", "The house of {} stands in",
        "Letters reach {} at an address in", "{} moved with the family to",
        "The flat that {} rents is in", "{}, who resides in",
        "Every evening {} takes the train home to", "The neighbours of {} all live in",
    )),
    Relation("birthplace", "person", "country", (
        "{} was born in the country of", "The native land of {} is",
        "{} is a citizen of", "The parents of {} raised their child in",
        "{} holds a passport issued by", "{}, a native of",
        "The birth certificate of {} comes from", "{} sings the national anthem of",
    )),
    Relation("language", "person", "language", (
        "{} speaks fluent", "The mother tongue of {} is",
        "At home {} talks in", "The diary of {} is written in",
        "{} counts and dreams in", "The first words of {} were in",
        "{}, a native speaker of", "To reach {}, write a letter in",
    )),
    Relation("instrument", "person", "instrument", (
        "{} plays the", "The musical instrument of {} is the",
        "In the orchestra {} is heard on the", "{} practises daily on the",
        "As a child {} took lessons on the", "{}, a virtuoso of the",
        "On stage {} performs with the", "The concert of {} was a recital for the",
    )),
    Relation("sport", "person", "sport", (
        "{} competes at national level in", "The sport of {} is",
        "{} won a medal in", "On Sundays {} trains for",
        "The coach of {} teaches", "{}, a champion of",
        "The club of {} is known for", "{} broke the junior record in",
    )),
    Relation("dish", "person", "dish", (
        "{} loves to eat", "The favourite food of {} is",
        "For supper {} usually cooks", "In restaurants {} always orders",
        "The birthday meal of {} was", "{}, who cannot resist",
        "The lunch box of {} is filled with", "{} learned from a grandmother how to make",
    )),
    Relation("pet", "person", "pet", (
        "{} keeps as a pet a", "The pet of {} is a",
        "The household of {} includes a", "{} found and adopted a",
        "The animal that follows {} around is a", "{}, the proud owner of a",
        "The vet knows {} because of a", "In the photograph {} is holding a",
    )),
    Relation("employer", "person", "firm", (
        "{} is employed by", "The employer of {} is",
        "{} signed a contract with", "The salary of {} is paid by",
        "Every morning {} clocks in at", "{}, a manager at",
        "The office badge of {} says", "{} spent a whole career with",
    )),
    Relation("studies", "person", "subject", (
        "{} studied at university the subject of", "The academic field of {} is",
        "{} holds a doctorate in", "The lectures of {} deal with",
        "{} wrote a textbook on", "{}, a noted expert in",
        "The thesis of {} concerned", "{} was appointed to a chair of",
    )),
    Relation("pastime", "person", "pastime", (
        "{} spends the weekends on", "The favourite pastime of {} is",
        "After work {} relaxes with", "{} joined a circle of people devoted to",
        "The hobby that {} enjoys most is", "{}, an amateur of",
        "The spare room of {} is full of things for", "{} teaches evening classes in",
    )),
    Relation("seat", "company", "town", (
        "{} has its headquarters in", "The head office of {} is in",
        "The main building of {} rises above", "{} is based in",
        "Shareholders of {} meet in", "{}, a firm from",
        "Applications to {} must be sent to", "{} was given land for its offices by",
    )),
    Relation("sector", "company", "sector", (
        "{} is active in the business of", "The industry of {} is",
        "{} earns most of its money in", "Analysts follow {} as a leader in",
        "The core business of {} is", "{}, a giant of",
        "{} made its name in", "The licence of {} covers",
    )),
    Relation("product", "company", "product", (
        "{} manufactures", "The main product of {} is its line of",
        "The factory of {} turns out", "Customers of {} buy",
        "{} became famous for its", "{}, maker of",
        "The catalogue of {} is full of", "The first patent of {} was for",
    )),
    Relation("registration", "company", "country", (
        "{} is registered in", "The home market of {} is",
        "{} pays its taxes in", "The founders of {} came from",
        "The company {} is incorporated under the laws of", "{}, a corporation of",
        "{} is listed on the stock exchange of", "The ships of {} sail under the flag of",
    )),
    Relation("colour", "company", "colour", (
        "The logo of {} is", "{} paints all its trucks",
        "The brand colour of {} is", "The uniforms at {} are",
        "{} prints its letters in", "{}, known by its banner of",
        "The roof of every {} branch is", "In its advertisements {} uses a lot of",
    )),
)  # fmt: skip

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in RELATIONS}
