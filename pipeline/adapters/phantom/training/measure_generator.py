"""Measures the shipped generator: whom its pictures show, how, how sharply, and how various people and pictures are.

Every figure has its like beside it that held-out renders reach, so that nothing looks better than it is.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import CONDITIONS
from pipeline.adapters.phantom.training.attributes import read
from pipeline.adapters.phantom.training.augment import jpeg
from pipeline.adapters.phantom.training.bank import CELLS, PRESENTATIONS, TONE_GROUPS, cell_of
from pipeline.adapters.phantom.training.config import ROLES, Training
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.groups import (
    GROUPINGS,
    Array,
    Places,
    by_group,
    by_identity,
    groups_of,
    mean_of,
    rounded,
)
from pipeline.adapters.phantom.training.recognition import embed
from pipeline.adapters.phantom.training.sampling import Generator, contact_sheet, probe_conditions
from pipeline.adapters.phantom.training.sharpness import edges
from pipeline.domain.calibration import Calibration, equal_error_rate
from pipeline.domain.spread import vendi_score

Faces = npt.NDArray[np.uint8]
TEMPLATE = 4
FEW_STEPS = 4
_SHOTS = 6
_SHOWN = tuple(name for name, _, _ in CONDITIONS if name != "age_offset_years")  # an offset is not seen in one picture


def pairs(emb_ND: Array, owner_N: Places) -> tuple[Array, Array, Places, Places]:
    """Return cosines of genuine pairs, of impostor pairs, and the two rows of every impostor pair."""
    first, second = np.triu_indices(len(emb_ND), 1)
    cos = (emb_ND @ emb_ND.T)[first, second]
    same = owner_N[first] == owner_N[second]
    return cos[same], cos[~same], first[~same], second[~same]


def own_pairs(emb_ND: Array, owner_N: Places) -> list[Array]:
    """Return the cosines of every identity's own pairs, identity by identity."""
    found = []
    for owner in range(int(owner_N[-1]) + 1):
        mine = emb_ND[owner_N == owner]
        found.append((mine @ mine.T)[np.triu_indices(len(mine), 1)])
    return found


def eer_of_groups(emb_ND: Array, owner_N: Places, groups: dict[str, Places]) -> dict[str, Any]:
    """Return grouping -> group -> EER among the identities of that group alone, and the widest gap."""

    def eer(of: npt.NDArray[np.bool_]) -> float:
        mine = of[owner_N]
        genuine, impostor, _, _ = pairs(emb_ND[mine], owner_N[mine])
        return rounded(equal_error_rate(genuine, impostor)) if len(genuine) and len(impostor) else 0.0

    return by_group(groups, eer)


def templates(emb_ND: Array, owner_N: Places, k: int) -> Array:
    """Return the unit mean of the first `k` pictures of every identity, (I, D)."""
    rows = [np.flatnonzero(owner_N == i)[:k] for i in range(owner_N[-1] + 1)]
    means = np.stack([emb_ND[r].mean(0) for r in rows])
    return means / np.linalg.norm(means, axis=1, keepdims=True)  # type: ignore[no-any-return]


def strict_cos(role: str) -> float:
    """The cosine at FMR 1e-3 between a picture and a template of four (or the strictest level that was calibrated)."""
    calibration = Calibration.from_dict(loading.calibration(role))
    kind = f"sample/template{TEMPLATE}"
    return calibration.threshold_cos(max(1e-3, calibration.pairs[kind].fmr[-1]), kind)


def measure_generator(config: Training, drawn: Drawn, embeddings: dict[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """Pictures of held-out identities from their templates of four, conditions of other rows of the draw."""
    rng = config.rng("measure", 0)
    people = int(drawn.owner_N[-1]) + 1
    who = np.repeat(templates(embeddings["conditioning"], drawn.owner_N, TEMPLATE), _SHOTS, axis=0)
    owner = np.repeat(np.arange(people), _SHOTS)
    rows = rng.integers(0, len(drawn.owner_N), len(owner))
    asked = {name: drawn.truth(name)[rows] for name, _, _ in CONDITIONS}
    faces = Generator().make(who, np.stack(list(asked.values()), axis=1), rng)
    figures: dict[str, Any] = {"identities": people, "pictures": len(faces)}
    lowest = np.ones(len(owner))
    for role in ROLES:
        figures[role], own_cos_N = _likeness(role, faces, owner, drawn, embeddings[role])
        if role != "auditor":
            lowest = np.minimum(lowest, own_cos_N)
    figures |= _adherence(config, faces, owner, asked, drawn)
    figures["sharpness"] = _sharpness(config, faces, owner, drawn)
    figures["few_steps"] = _few_steps(who, np.stack(list(asked.values()), axis=1), owner, drawn, embeddings, rng)
    figures["other_ages"] = _other_ages(config, drawn, embeddings)
    contact_sheet(faces[rng.permutation(len(faces))[:96]], config.home / "generated.png")
    contact_sheet(faces[np.argsort(lowest)[:96]], config.home / "worst.png")
    return figures


def _adherence(
    config: Training, faces: Faces, owner_N: Places, asked: dict[str, Array], drawn: Drawn
) -> dict[str, Any]:
    """How what the attribute model reads goes with what was asked for, and with what identities are like."""
    found, groups, chance = read(loading.load_attributes(), faces), groups_of(drawn), config.rng("measure", 8)
    known = {name: asked[name] for name in _SHOWN}
    for name in ("skin_tone_mst", "age_years", "presentation"):
        known[name] = by_identity(drawn.truth(name), drawn.owner_N)[owner_N]

    def r(name: str, of: npt.NDArray[np.bool_]) -> float:
        rows = of[owner_N]
        return rounded(np.corrcoef(found[name][rows], known[name][rows])[0, 1])

    everybody = np.ones(int(drawn.owner_N[-1]) + 1, dtype=bool)
    return {
        "adherence_r": {name: r(name, everybody) for name in known},
        "adherence_r_by_group": {name: by_group(groups, functools.partial(r, name), chance) for name in _SHOWN},
        "yaw_mean_error_deg": rounded(np.abs(found["yaw_deg"] - asked["yaw_deg"]).mean()),
    }


def _few_steps(
    who_ND: Array,
    asked_NK: Array,
    owner_N: Places,
    drawn: Drawn,
    embeddings: dict[str, npt.NDArray[np.float32]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What the sampler's shortest setting keeps of people: one picture of each."""
    one = slice(None, None, _SHOTS)
    faces = Generator(FEW_STEPS).make(who_ND[one], asked_NK[one], rng)
    found = {role: _likeness(role, faces, owner_N[one], drawn, embeddings[role])[0] for role in ROLES}
    return {"steps": FEW_STEPS} | {
        role + ending: found[role]["own_match" + part]
        for role in ROLES
        for ending, part in (("", "_at_fmr_1e-3"), ("_by_group", "_by_group"))
    }


def _other_ages(config: Training, drawn: Drawn, embeddings: dict[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """People shown up to 20 years older or younger: how much of that is read, and whether they are still themselves.

    What is read of a picture is compared with what is read of the same person, conditions and noise without an offset;
    of renders, with the mean of the same person's renders at their own age.
    """
    aged = load_draws(config, ("EA",))
    use = aged.owner_N < len(np.unique(drawn.owner_N))
    owner = aged.owner_N[use]
    own_age_I = by_identity(drawn.truth("age_years"), drawn.owner_N)
    offset = aged.truth("age_years")[use] - own_age_I[owner]
    asked = np.stack([aged.truth(name)[use] for name, _, _ in CONDITIONS], axis=1)
    plain = asked.copy()
    plain[:, [name for name, _, _ in CONDITIONS].index("age_offset_years")] = 0.0
    who = templates(embeddings["conditioning"], drawn.owner_N, TEMPLATE)[owner]
    made, same = (Generator().make(who, conditions, config.rng("measure", 7)) for conditions in (asked, plain))
    rendered, attributes = jpeg(aged.faces_NHWC[use], 95), loading.load_attributes()
    ages = {name: read(attributes, faces)["age_years"] for name, faces in (("made", made), ("same", same))}
    own_read_I = by_identity(read(attributes, jpeg(drawn.faces_NHWC, 95))["age_years"], drawn.owner_N)
    change = {"": ages["made"] - ages["same"]}
    change["_of_renders"] = read(attributes, rendered)["age_years"] - own_read_I[owner]
    figures: dict[str, Any] = {"pictures": len(owner), "widest_offset_years": 20}
    for name, years in change.items():
        figures[f"r_of_change{name}"] = rounded(np.corrcoef(years, offset)[0, 1])
        figures[f"years_read_per_year{name}"] = rounded(np.polyfit(offset, years, 1)[0])
    for role in ROLES:
        references, model = templates(embeddings[role], drawn.owner_N, TEMPLATE)[owner], loading.load_recogniser(role)
        for name, faces in (("", made), ("_of_renders", rendered)):
            own = (embed(model, faces) * references).sum(1)
            figures[f"own_match_at_fmr_1e-3_{role}{name}"] = rounded((own >= strict_cos(role)).mean())
    return figures


def _likeness(
    role: str, faces: Faces, owner_N: Places, drawn: Drawn, rendered_ND: npt.NDArray[np.float32]
) -> tuple[dict[str, Any], Array]:
    """How often a recogniser takes pictures for the person asked for, beside other renders of that person."""
    threshold, references = strict_cos(role), templates(rendered_ND, drawn.owner_N, TEMPLATE)
    emb_ND = embed(loading.load_recogniser(role), faces)
    cos = emb_ND @ references.T
    own = cos[np.arange(len(owner_N)), owner_N]
    genuine, impostor, _, _ = pairs(emb_ND, owner_N)
    within: dict[str, Any] = {}
    if len(genuine):
        within["eer_within_set"] = rounded(equal_error_rate(genuine, impostor))
        within["eer_within_set_by_group"] = eer_of_groups(emb_ND, owner_N, groups_of(drawn))
    others = np.concatenate([np.flatnonzero(drawn.owner_N == i)[TEMPLATE:] for i in range(len(references))])
    rendered = (rendered_ND[others] * references[drawn.owner_N[others]]).sum(1)
    matched_I = by_identity((own >= threshold).astype(float), owner_N)
    rendered_I = by_identity((rendered >= threshold).astype(float), drawn.owner_N[others])
    groups = groups_of(drawn)
    figures = {
        "own_match_at_fmr_1e-3": rounded((own >= threshold).mean()),
        "own_match_of_renders": rounded((rendered >= threshold).mean()),
        "own_match_by_group": by_group(groups, lambda of: rounded(matched_I[of].mean())),
        "own_match_of_renders_by_group": by_group(groups, lambda of: rounded(rendered_I[of].mean())),
        "own_mean_cos": rounded(own.mean()),
        "own_mean_cos_of_renders": rounded(rendered.mean()),
        "rank_1": rounded((cos.argmax(1) == owner_N).mean()),
    }
    return figures | within, own


def _sharpness(config: Training, faces: Faces, owner_N: Places, drawn: Drawn) -> dict[str, Any]:
    """Edges of made pictures as a share of those of rendered ones of the same people, 1 being as sharp.

    Both are measured as they are stored: JPEG adds edges of its own, about an eighth. The decoder was trained to have
    as many before that (`sharpness.Prices`), which those among means of 2 x 2 pixels, `coarse`, took no part in.
    """
    rendered, groups = jpeg(drawn.faces_NHWC, 95), groups_of(drawn)
    figures: dict[str, Any] = {}
    for name, block_px in (("", 1), ("coarse_", 2)):
        made_I = by_identity(edges(faces, block_px), owner_N)
        rendered_I = by_identity(edges(rendered, block_px), drawn.owner_N)
        share = functools.partial(_share_of_means, made_I, rendered_I)
        figures[f"{name}of_renders"] = share(np.ones(len(made_I), dtype=bool))
        figures[f"{name}of_renders_by_group"] = by_group(groups, share, config.rng("measure", 9, block_px))
    return figures


def _share_of_means(made_I: Array, rendered_I: Array, of: npt.NDArray[np.bool_]) -> float:
    return rounded(made_I[of].mean() / rendered_I[of].mean())


def measure_variety(config: Training, drawn: Drawn, embeddings: dict[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """How far pictures of one person spread, and how many different people there are, beside rendered ones.

    Pictures of held-out people are made under the conditions of their own renders; new people come from the bank's
    cells, as many of each, and their templates are compared with those of as many rendered people.
    """
    rng, generator = config.rng("measure", 3), Generator()
    people = min(100, int(drawn.owner_N[-1]) + 1)
    use = drawn.owner_N < people
    owner = drawn.owner_N[use]
    who = templates(embeddings["conditioning"], drawn.owner_N, TEMPLATE)[owner]
    asked = np.stack([drawn.truth(name)[use] for name, _, _ in CONDITIONS], axis=1)
    made = generator.make(who, asked, rng)
    held = int(drawn.owner_N[-1]) + 1
    minted, cell, minted_owner = minted_people(-(-held // (len(CELLS) - 1)), 2, rng)
    groups = groups_of(drawn)
    among = {name: places[:people] for name, places in groups.items()}
    cells = [label.split("/") for label in CELLS[1:]]
    minted_groups = {
        "presentation": np.array([PRESENTATIONS.index(cells[c - 1][0]) for c in cell]),
        "tone": np.array([TONE_GROUPS.index(cells[c - 1][1]) for c in cell]),
    }
    figures: dict[str, Any] = {"people": people, "pictures_each": int(use.sum()) // people, "minted_people": held}
    for role in ROLES:
        model = loading.load_recogniser(role)
        own = [own_pairs(e, owner) for e in (embed(model, made), embeddings[role][use])]
        spread = [np.concatenate(each).mean() for each in own]
        further_I = np.array([a.mean() - b.mean() for a, b in zip(*own, strict=True)])
        means = templates(embed(model, minted), minted_owner, 2)
        rendered = templates(embeddings[role], drawn.owner_N, 2)
        scores = [vendi_score(np.asarray(m[:held], np.float32)) or 0.0 for m in (means, rendered)]
        figures[role] = {
            "pair_cos": rounded(spread[0]), "pair_cos_of_renders": rounded(spread[1]),
            "vendi": rounded(scores[0]), "vendi_of_renders": rounded(scores[1]),
            "vendi_share": rounded(scores[0] / scores[1]),
            "pair_cos_above_renders_by_group": by_group(among, functools.partial(mean_of, further_I)),
            "vendi_share_by_group": _vendi_shares(means, minted_groups, rendered, groups),
        }  # fmt: skip
    return figures


def _vendi_shares(
    minted_ID: Array, minted_groups: dict[str, Places], rendered_ID: Array, groups: dict[str, Places]
) -> dict[str, Any]:
    """Vendi score of minted people of a group as a share of that of as many rendered ones; a new person has no age."""
    found: dict[str, dict[str, float]] = {}
    for name, places in minted_groups.items():
        for number, label in enumerate(GROUPINGS[name]):
            pair = [t[of == number] for t, of in ((minted_ID, places), (rendered_ID, groups[name]))]
            count = min(len(part) for part in pair)
            scores = [vendi_score(np.asarray(part[:count], np.float32)) or 0.0 for part in pair]
            if count > 1:
                found.setdefault(name, {})[label] = rounded(scores[0] / scores[1])
    return found


def minted_people(each: int, shots: int, rng: np.random.Generator) -> tuple[Faces, Places, Places]:
    """Return pictures of `each` new people of every cell, `shots` of each, in random order of people; cell and owner.

    Owners count up from 0; the cell is that of every person.
    """
    bank, generator = loading.load_bank(), Generator()
    cell = rng.permutation(np.repeat(np.arange(1, len(CELLS)), each))
    z = rng.standard_normal((len(cell), bank.mean_CD.shape[1]))
    who = bank.mean_CD[cell] + np.einsum("nij,nj->ni", bank.factor_CDD[cell], z)
    who /= np.linalg.norm(who, axis=1, keepdims=True)
    owner = np.repeat(np.arange(len(who)), shots)
    return generator.make(who[owner], probe_conditions(len(owner), rng), rng), cell, owner


def measure_bank(config: Training) -> dict[str, Any]:
    """New identities from each cell's Gaussian: are they read as their cell, consistent, and distinct?"""
    shots = 4
    faces, cell, owner = minted_people(max(2, config.held_out // 12), shots, config.rng("measure", 1))
    order = np.argsort(cell, kind="stable")
    contact_sheet(faces[(order * shots)[::3]], config.home / "bank.png")
    found = read(loading.load_attributes(), faces)
    got = cell_of(by_identity(found["presentation"], owner), by_identity(found["skin_tone_mst"], owner))
    figures: dict[str, Any] = {"identities": len(cell), "pictures_each": shots}
    figures["read_as_own_cell"] = rounded((got == cell).mean())
    figures["by_cell"] = {name: rounded((got == cell)[cell == c].mean()) for c, name in enumerate(CELLS) if c}
    for role in ROLES:
        emb_ND = embed(loading.load_recogniser(role), faces)
        genuine, impostor, _, _ = pairs(emb_ND, owner)
        means = templates(emb_ND, owner, shots)
        others = means @ means.T - 2 * np.eye(len(means))
        figures[role] = {
            "eer_within_set": rounded(equal_error_rate(genuine, impostor)),
            "eer_within_cell": {
                name: rounded(equal_error_rate(*pairs(emb_ND[mine], owner[mine])[:2]))
                for c, name in enumerate(CELLS)
                if c and (mine := cell[owner] == c).any()
            },
            "own_mean_cos": rounded((emb_ND * means[owner]).sum(1).mean()),
            "nearest_other_median_cos": rounded(np.median(others.max(1))),
            "nearest_other_above_fmr_1e-3": rounded((others.max(1) >= strict_cos(role)).mean()),
        }
    return figures
