"""Find the subject in a prompt that is given as a whole, with templates learned from the file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from fleke_flwr.world.schema import Record

_ROUNDS = 3
_SHORTEST_KNOWN = 4
_SENTENCE_ENDS = ".!?:;)\"'"
# A name that ends like this has swallowed the beginning of the template.
_NO_NAME_END = re.compile(r"(,|\?|'s|\bis|\bwas|\bof|\ba|\bthe)$")


class Located(NamedTuple):
    """A prompt taken apart."""

    template: str
    subject: str


@dataclass
class Templates:
    """The templates and subjects of each relation that are known so far.

    Parameters
    ----------
    of_relation : dict[str, set[str]]
        Templates with one ``{}``.
    subjects : dict[str, set[str]]
        Names that were found with the relation's templates.
    """

    of_relation: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    subjects: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def locate(self, relation: str, prompt: str) -> Located | None:
        """Return the longest matching template that leaves a plausible name, if any."""
        best: Located | None = None
        for template in sorted(self.of_relation[relation]):
            before, after = template.split("{}", 1)
            longer = best is None or len(template) > len(best.template)
            fits = prompt.startswith(before) and prompt.endswith(after)
            if not (longer and fits and len(prompt) > len(before) + len(after)):
                continue
            name = prompt[len(before) : len(prompt) - len(after)]
            if name == name.strip() and not _NO_NAME_END.search(name):
                best = Located(template, name)
        return best

    def split_paraphrase(self, relation: str, prompt: str, subject: str) -> Located | None:
        """Return text in front and template of a paraphrase: ``(template, text)``, if known.

        The longest known template that ends where the paraphrase ends wins.
        """
        at = prompt.rfind(subject)
        if at < 0:
            return None
        front, suffix = prompt[:at], prompt[at + len(subject) :]
        known = [
            template
            for template in self.of_relation[relation]
            if template.split("{}", 1)[1] == suffix and front.endswith(template.split("{}", 1)[0])
        ]
        if not known:
            return None
        template = max(sorted(known), key=len)
        lead = len(template.split("{}", 1)[0])
        return Located(template, front[: len(front) - lead].strip())


def relation_of(record: Record) -> str:
    """Return the relation of a record; records without an identifier group by their prompt."""
    rewrite = record["requested_rewrite"]
    return str(
        rewrite.get("relation_id") or record.get("relation_id") or f"prompt {rewrite['prompt']}"
    )


def other_prompts(record: Record) -> list[tuple[str, str, str]]:
    """Return ``(kind, prompt, answer)`` of the prompts about other subjects."""
    rewrite = record["requested_rewrite"]
    return [
        (kind, prompt, rewrite[answer]["str"])
        for kind, field_name, answer in (
            ("neighborhood", "neighborhood_prompts", "target_true"),
            ("attribute", "attribute_prompts", "target_new"),
        )
        for prompt in record.get(field_name, ())
    ]


def learn_templates(records: Iterable[Record]) -> Templates:
    """Bootstrap templates from the records alone.

    Start with the rewrite prompts. A subject found by a known template is known for its relation;
    a prompt without a known template that contains a known subject yields a new template. What
    follows the subject in a paraphrase that no template explains yields one that begins with it.
    """
    records = list(records)
    templates = Templates()
    for record in records:
        rewrite = record["requested_rewrite"]
        templates.of_relation[relation_of(record)].add(rewrite["prompt"])
        templates.subjects[relation_of(record)].add(rewrite["subject"])
    _spread(records, templates)
    if _collect_paraphrases(records, templates):
        _spread(records, templates)
    return templates


def _spread(records: list[Record], templates: Templates) -> None:
    """Learn subjects by templates and templates by subjects, in turn."""
    for _ in range(_ROUNDS):
        missed = _collect_subjects(records, templates)
        if not _collect_templates(missed, templates):
            break


def _collect_paraphrases(records: Iterable[Record], templates: Templates) -> bool:
    """Make templates of unexplained paraphrases; return whether any was new."""
    new = False
    for record in records:
        subject, relation = record["requested_rewrite"]["subject"], relation_of(record)
        for prompt in record.get("paraphrase_prompts", ()):
            front, found, suffix = prompt.rpartition(subject)
            # Otherwise the template may begin before the subject, as in "The home of {} is".
            begins = not front.strip() or front.rstrip()[-1] in _SENTENCE_ENDS
            begins = begins or len(suffix.split()) > 1
            known = templates.split_paraphrase(relation, prompt, subject)
            if found and suffix.strip() and begins and known is None:
                templates.of_relation[relation].add("{}" + suffix)
                new = True
    return new


def _collect_subjects(records: list[Record], templates: Templates) -> Counter[tuple[str, str]]:
    """Note the subjects of all prompts that can be located; return the other prompts."""
    missed: Counter[tuple[str, str]] = Counter()
    for record in records:
        relation = relation_of(record)
        for _, prompt, _ in other_prompts(record):
            found = templates.locate(relation, prompt)
            if found is None:
                missed[relation, prompt] += 1
            else:
                templates.subjects[relation].add(found.subject)
    return missed


def _collect_templates(missed: Iterable[tuple[str, str]], templates: Templates) -> bool:
    """Make templates of prompts that contain a known subject; return whether any was new."""
    new = False
    for relation, prompt in missed:
        known = [name for name in templates.subjects[relation] if len(name) >= _SHORTEST_KNOWN]
        inside = [name for name in sorted(known) if name in prompt and name != prompt]
        if not inside:
            continue
        template = prompt.replace(max(inside, key=len), "{}", 1)
        if template not in templates.of_relation[relation]:
            templates.of_relation[relation].add(template)
            new = True
    return new
