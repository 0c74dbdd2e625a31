"""How the report says things: numbers, shares, rates and reasons in words that need no glossary."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

NOTHING = Markup('<span class="none" title="not measured"><span aria-hidden="true">–</span>'
                 '<span class="vh">not measured</span></span>')  # fmt: skip

REASONS = {
    "apparent_minor": "the person looks under age to the age model",
    "attempts_used_up": "no attempt was good enough",
    "duplicate_bytes": "the very same file came twice",
    "near_duplicate": "nearly a copy of another picture of this person",
    "same_picture_elsewhere": "the same picture stands under another label, which it fits better",
    "not_of_its_label": "the face is not that of its label's person, nor surely somebody else's",
    "label_without_cluster": "no two pictures under this label show one person",
    "further_person_of_label": "a second person under one label",
    "other_face_of_picture": "another face of a picture whose meant face was found",
    "looks_like_larger_identity": "looks too much like a person with more pictures",
    "looks_like_published_identity": "looks too much like somebody who is published",
    "not_of_published_identity": "comes under the label of somebody published, and does not match",
    "too_few_images": "the person has too few pictures left",
    "in_block_list": "the person is on a block list or in a benchmark",
    "not_needed_for_balance": "left out so that the groups come out even",
    "refused_by_review": "a person who reviewed it said so",
    "no_face": "no face was found",
    "several_faces": "several faces, where only one was to be",
    "not_an_image": "the file is no picture",
    "changed_since_planned": "the file changed after it was listed",
    "gone_since_planned": "the file was gone when it was to be read",
    "copies_gallery_image": "the image is nearly a copy of one in a gallery of real people",
    "disagrees_with_own_cell": "the image does not look like the group that its person belongs to",
    "face_too_small": "the face has too few pixels",
    "labellers_disagree": "the attribute models do not agree about the person",
    "leaks_gallery_identity": "the face comes too near to a person in a gallery",
    "low_dynamic_range": "the face spans too few shades between dark and bright",
    "made_template_collides": "judged by its finished images, the person resembles another one too much",
    "near_duplicate_of_sibling": "nearly the same picture as another one of the same person",
    "no_face_found": "no face was found in the picture",
    "numbers_not_finite": "a model gave no usable number",
    "over_exposed": "too much of the face is burnt out",
    "passes_but_not_stored": "it passes now, but was refused when it was made, and so its picture was not kept",
    "own_template_too_far": "the face does not match the person that it was made for",
    "pitch_too_large": "the head is tilted too far up or down",
    "probes_inconsistent": "trial pictures of the person do not match each other",
    "roll_too_large": "the head is tilted too far sideways",
    "siblings_too_alike": "the person’s pictures vary too little",
    "siblings_too_unlike": "the person’s pictures vary too much",
    "template_collides": "the person resembles one who was enrolled before",
    "too_blurred": "the picture is blurred",
    "too_bright": "the face is too bright",
    "too_close_to_other_identity": "the face matches another person of the set",
    "too_dark": "the face is too dark",
    "under_exposed": "too much of the face is black",
    "vector_too_near": "the person’s description lies too near to another one’s",
    "yaw_too_large": "the head is turned too far sideways",
}
"""What a reason means, for who has never seen its name; a reason that is not here is shown by its name alone."""

PREFIXES = {
    "off_target_": "the picture shows another {} than was asked for",
    "disagrees_with_own_cell": "the image does not look like the {} that its person belongs to",
}
"""What reasons mean that end with what they are about."""

ROLES = {
    "judge": "the recogniser that decided what was kept",
    "auditor": "a recogniser that decided nothing, and so can tell how good the decisions were",
    "screening": "a further recogniser that looked for real people",
    "generator": "drew the faces",
    "bank": "the population that new people were sampled from",
    "sampler": "proposed new people",
}

MEASURES = {
    "sharpness": "how crisp the picture is",
    "yaw_deg": "head turned left or right",
    "pitch_deg": "head tilted up or down",
    "roll_deg": "head leaning to a shoulder",
    "smile": "how much the mouth smiles",
    "light_azimuth_deg": "where the light comes from, left to right",
    "occlusion": "share of the face that something covers",
    "luma_mean": "mean brightness",
    "luma_contrast": "spread of brightness",
    "luminance_mean": "mean brightness of the face",
    "luminance_std": "spread of brightness in the face",
    "own_template_cos": "likeness to the person’s own template",
    "nearest_other_cos": "likeness to the nearest other person of the set",
    "nearest_sibling_cos": "likeness to the nearest earlier picture of the same person",
    "dynamic_range_bits": "shades between dark and bright, as a power of two",
    "over_exposed_share": "share of the face that is burnt out",
    "under_exposed_share": "share of the face that is black",
}

UNITS = {"deg": "°", "px": "px", "cos": "cosine", "years": "years", "bits": "bits", "s": "s"}


def known(value: Any) -> bool:
    """Return whether there is a figure: neither None nor not a number."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def whole(value: int | None) -> str | Markup:
    """Return a count with separated thousands."""
    return f"{value:,}" if known(value) else NOTHING


def number(value: Any, digits: int = 3) -> str | Markup:
    """Return a figure with so many decimals; whole numbers and words as they are."""
    if not known(value):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return _minus(f"{value:.{digits}f}") if isinstance(value, float) else str(value)


def short(value: float | None) -> str | Markup:
    """Return a figure of unknown size with three digits that count."""
    if not known(value):
        return NOTHING
    assert value is not None
    if value and not 1e-3 <= abs(value) < 1e5:
        return _minus(f"{value:.1e}")
    return _minus(f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0}f}")


def share(value: float | None) -> str | Markup:
    """Return a share in per cent, small ones with the digits that they need; what is less than all never says 100."""
    if not known(value):
        return NOTHING
    assert value is not None
    percent = 100 * value
    if percent and abs(percent) < 0.00009:
        return _minus(f"{percent:.0e} %")
    digits = 1 if abs(percent) >= 10 or not percent else 2 if abs(percent) >= 0.1 else 4
    if 0.99 < value < 1:
        # 9,999 of 10,000 is not all of them
        digits = min(9, max(digits, 1 - math.floor(math.log10(100 - percent))))
    text = f"{percent:.{digits}f}"
    return _minus(f"{text.rstrip('0').rstrip('.') if '.' in text else text} %")


def odds(value: float | None) -> str:
    """Return a rate as one in so many; empty where it is none, or one in fewer than two."""
    if not known(value) or not value or value >= 0.5:
        return ""
    every = 1 / value
    rounded = round(every, -max(0, math.floor(math.log10(every)) - 1))
    return f"1 in {rounded:,.0f}"


def of(part: int, everything: int) -> str | Markup:
    """Return the share of a part; a dash where there is no whole."""
    return share(part / everything) if everything else NOTHING


def said_of(value: Any) -> str:
    """Return text as it is, and the fields of a mapping one after the other."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said_of(inner)}" for name, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(said_of(inner) for inner in value)
    return str(value)


def breaks(text: Any) -> Markup:
    """Return a name that may be broken behind its joints, and nowhere else."""
    said = Markup.escape(str(text))
    for joint in ("/", "_", "="):
        said = said.replace(joint, joint + Markup("<wbr>"))
    return said


def coded(text: Any) -> Markup:
    """Return text with what stands between back quotes, and whole digests, set as code."""
    said = str(text)
    if re.fullmatch(r"[0-9a-f]{64}", said):
        return Markup('<code class="digest">{}</code>').format(said)
    parts = re.split(r"`([^`]+)`", said)
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else p for n, p in enumerate(parts))


def moment(text: Any) -> str:
    """Return an ISO time as people write it."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T([\d:]+)(?:\.\d+)?(?:\+00:00|Z)$", r"\1 \2 UTC", str(text))


def span(seconds: float | None) -> str | Markup:
    """Return a duration in the two largest units that it has."""
    if not known(seconds):
        return NOTHING
    assert seconds is not None
    if seconds < 60:
        return f"{seconds:.1f} s"
    if (whole_s := round(seconds)) < 3600:
        return f"{whole_s // 60} min {whole_s % 60} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def plural(count: int, word: str, several: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {word if count == 1 else several or word + 's'}"


def reason_said(reason: str) -> str:
    """Return what a reason means; empty where it is not one of ours."""
    if reason in REASONS:
        return REASONS[reason]
    for start, said in PREFIXES.items():
        if reason.startswith(start):
            return said.format(reason.removeprefix(start).lstrip("_"))
    for end in ("_too_low", "_too_high"):
        if reason.endswith(end):
            return f"the measure {reason.removesuffix(end)} is {end.replace('_', ' ').strip()}"
    return ""


def measure_said(name: str) -> str:
    """Return what a measure is; for an attribute, which estimate."""
    if name in MEASURES:
        return MEASURES[name]
    _field, sign, value = name.partition("=")
    return f"how sure the model is of {value!r}, 0 to 1" if sign else ""


def role_said(role: str) -> str:
    """Return what a model did."""
    if role.startswith("measure "):
        return "measured every picture"
    return ROLES.get(role.removeprefix("leakage."), "")


def listed(names: Mapping[str, int]) -> str:
    """Return `a 3, b 2`, the most first."""
    return ", ".join(f"{name} {n:,}" for name, n in sorted(names.items(), key=lambda e: (-e[1], e[0])))


def _minus(text: str) -> str:
    """Return text with a true minus sign, and none before nothing."""
    bare = text.lstrip("-")
    return bare if not bare.strip("0.% ") else text.replace("-", "−")


FILTERS = {
    "whole": whole, "number": number, "short": short, "share": share, "odds": odds, "span": span, "plural": plural,
    "part_of": of, "said_of": said_of, "breaks": breaks, "coded": coded, "moment": moment,
    "reason_said": reason_said, "measure_said": measure_said, "role_said": role_said, "listed": listed, "known": known,
}  # fmt: skip
"""What templates may say."""
