"""The evidence about a release: pure, from one reading."""

from __future__ import annotations

from kilter.core.evidence import Finding, Verdict
from kilter.loop.records import Release
from kilter.release.records import EvidencePoint, ReleaseEvidence
from kilter.server.ui.picture import elapsed
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Chart, Point, Proof, Rule, Series, Step

_LARGEST = 1e6
"""E-values beyond this are drawn as this: the proof is long complete."""


def proof(reading: Reading) -> Proof | None:
    """Return the evidence about the release in flight, or about the latest one; None before the first."""
    release = reading.row.state.release
    flying = release.version if release is not None else None
    evidence = reading.evidence
    version = flying if flying is not None else (None if evidence is None else evidence.version)
    if version is None:
        return None
    if evidence is not None and evidence.version != version:
        evidence = None
    stage = next((one.stage for one in reading.versions if one.version == version), "candidate")
    live = flying == version and release is not None and release.work in {"gating", "approval", "shadow", "canary"}
    looks = () if evidence is None else evidence.shadow
    canary = None if evidence is None else evidence.canary
    points = () if evidence is None else evidence.points
    threshold = points[-1].threshold if points else None
    verdict: Verdict = "inconclusive"
    if canary is not None:
        verdict = canary.verdict
    elif looks:
        verdict = looks[-1].verdict
    else:
        verdict = reading.judged.get(version, verdict)
    return Proof(
        version=version,
        live=live,
        stage=stage,
        verdict=verdict,
        sentence=_sentence(stage, release if live else None, looks, points),
        steps=tuple(_steps(reading, version, stage, release if live else None, looks)),
        since=release.since if live and release is not None else None,
        due=release.due if live and release is not None else None,
        elapsed=elapsed(reading) if live else None,
        looks=looks,
        canary=canary,
        threshold=threshold,
        e_values=_e_values(points),
        harm=_harm(points, evidence),
    )


def _sentence(
    stage: str, release: Release | None, looks: tuple[Finding, ...], points: tuple[EvidencePoint, ...]
) -> str:
    if release is None:
        return {
            "champion": "It was promoted.",
            "retired": "It was promoted, and has been replaced since.",
            "rejected": "It was refused.",
            "rolled_back": "It was taken back.",
            "inconclusive": "Neither better nor worse could be proven in time.",
        }.get(stage, "")
    if release.work == "canary" and points:
        last = points[-1]
        return (
            f"{last.rows:,} labelled answers, {last.challenger_rows:,} of them from the challenger. "
            f"No harm: e = {last.e_promote:,.1f}; harm: e = {last.e_rollback:,.1f}; "
            f"either is proven at {last.threshold:,.0f}."
        )
    if release.work == "canary":
        return "Waiting for the first labels of what the challenger answers."
    if release.work == "shadow":
        return (
            f"Look {release.look + 1} comes at the end of the bake."
            if not looks
            else f"{release.look} look{'s' * (release.look > 1)} taken, not decided yet."
        )
    return ""


def _steps(
    reading: Reading, version: int, stage: str, release: Release | None, looks: tuple[Finding, ...]
) -> list[Step]:
    """Return the way of a release: gates, shadow, each share, all traffic."""
    names: list[tuple[str, str]] = [("gates", "gates")]
    shares: list[int] = []
    kinds = {declared.kind for declared in reading.spec.release}
    reached = {mark for number, mark, _ in reading.marks if number == version}
    # It may have been released under an earlier declaration, one that had a shadow.
    if "shadow" in reached or ("Shadow" in kinds and not reached & {"canary", "champion"}):
        names.append(("shadow", "shadow"))
    for declared in reading.spec.release:
        if declared.kind == "Canary":
            steps = declared.values.get("steps")
            shares = [int(share) for share in steps if isinstance(share, int)] if isinstance(steps, list) else []
            names += [(f"canary{place}", f"{share} %") for place, share in enumerate(shares)]
    names.append(("all", "100 %"))
    place = _place(names, stage, release, looks, reading, version)
    ended = {"rejected": "failed", "rolled_back": "failed", "inconclusive": "open"}.get(stage)
    found: list[Step] = []
    for number, (_, label) in enumerate(names):
        if number < place:
            found.append(Step(label=label, state="done"))
        elif number > place:
            found.append(Step(label=label, state="ahead"))
        elif stage in {"champion", "retired"}:
            found.append(Step(label=label, state="done"))
        else:
            state = "now" if release is not None else ended or "now"
            found.append(
                Step(label=label, state="failed" if state == "failed" else "open" if state == "open" else "now")
            )
    return found


def _place(
    names: list[tuple[str, str]],
    stage: str,
    release: Release | None,
    looks: tuple[Finding, ...],
    reading: Reading,
    version: int,
) -> int:
    keys = [key for key, _ in names]
    if stage in {"champion", "retired"}:
        return len(keys) - 1
    if release is not None:
        wanted = {"shadow": "shadow", "canary": f"canary{release.step}", "promoting": "all"}.get(release.work, "gates")
        return keys.index(wanted) if wanted in keys else 0
    if reading.judged.get(version) != "pass":
        return 0
    reached = {stage for number, stage, _ in reading.marks if number == version}
    if "canary" in reached:
        shares = [
            int(event.data.get("share", 0))
            for event in reading.events
            if event.kind == "SetTraffic" and event.data.get("challenger") == version
        ]
        wanted = f"{max(shares, default=0)} %"
        return next((place for place, (_, label) in enumerate(names) if label == wanted), len(keys) - 2)
    return keys.index("shadow") if "shadow" in keys and (looks or "shadow" in reached) else 0


def _e_values(points: tuple[EvidencePoint, ...]) -> Chart | None:
    if not points:
        return None
    return Chart(
        title="Evidence",
        unit="e-value",
        series=(
            Series(
                name="no harm proven",
                role="pass",
                points=tuple(Point(one.day, min(_LARGEST, max(1e-3, one.e_promote))) for one in points),
            ),
            Series(
                name="harm proven",
                role="fail",
                points=tuple(Point(one.day, min(_LARGEST, max(1e-3, one.e_rollback))) for one in points),
            ),
        ),
        rules=(Rule(value=points[-1].threshold, label=f"proven at {points[-1].threshold:,.0f}"),),
        log=True,
    )


def _harm(points: tuple[EvidencePoint, ...], evidence: ReleaseEvidence | None) -> Chart | None:
    if not points:
        return None
    margin = None if evidence is None else evidence.margin
    rules = [Rule(value=0.0, label="as good as the champion")]
    if margin is not None:
        rules.append(Rule(value=margin, label=f"allowed harm {margin:g}"))
    return Chart(
        title="Estimated harm, with the band that is valid at any time",
        unit="squared error, challenger less champion",
        series=(
            Series(
                name="harm",
                role="challenger",
                points=tuple(
                    Point(one.day, round(one.difference, 5), round(one.low, 5), round(one.high, 5)) for one in points
                ),
            ),
        ),
        rules=tuple(rules),
    )
