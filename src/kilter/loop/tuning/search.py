"""Optuna, and nothing else: a study in memory that is made again from its trials whenever a process needs it.

The tracked runs are the only truth. Trial ``n`` is drawn by a sampler that is made anew from the study's seed and ``n``, so that
the next trial is a function of the trials before it: a search that was killed and goes on finds what it would have found.

Sources: TPE (Bergstra et al. 2011, NeurIPS), CMA-ES (Hansen 2016, arXiv:1604.00772), ASHA (Li et al. 2020, MLSys), Hyperband
(Li et al. 2018, JMLR 18), all as Optuna has them (Akiba et al. 2019, KDD).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from kilter.core.errors import Unavailable
from kilter.loop.tuning.records import PrunerSpec, StudySpec, TrialState
from kilter.loop.tuning.space import Dimension, Point, grid_point, point_of

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


class Search:
    """A study as Optuna sees it. Trials have the study's own numbers, in every process.

    Args:
        spec: What is searched.
        sampling: Trials are drawn here; a process that only asks whether to stop a trial needs no sampler.

    Raises:
        Unavailable: When Optuna is not installed.
    """

    def __init__(self, spec: StudySpec, *, sampling: bool = True) -> None:
        self._optuna = _optuna()
        self._spec = spec
        self._sampling = sampling and spec.sampler in {"tpe", "cma-es"}
        self._distributions = {one.name: _distribution(one) for one in spec.space}
        self._told: set[int] = set()
        self._placed: set[int] = set()
        self._steps: dict[int, set[int]] = {}
        with _quiet():
            self._pruner = _pruner(spec.pruner)
            self._study = self._optuna.create_study(
                study_name=spec.name,
                directions=[goal.direction for goal in spec.goals],
                sampler=self._optuna.samplers.RandomSampler(seed=0),
                pruner=self._pruner,
            )

    def ask(self, number: int) -> Point:
        """Return where trial ``number`` is to look, given all that was told before."""
        first = self._spec.first
        if number < len(first):
            return point_of(self._spec.space, first[number])
        number_of_rest = number - len(first)
        if self._spec.sampler == "grid":
            return grid_point(self._spec.space, number_of_rest)
        self._reach(number - 1)
        if number < len(self._study.get_trials(deepcopy=False)):  # another process had it first, and was told of
            sampler = self._optuna.samplers.RandomSampler(seed=self._seed(number))
            return self._plain(sampler, number)
        with _quiet():
            self._study.sampler = self._sampler(number)
            trial = self._study.ask(self._distributions)
        self._placed.add(number)
        return dict(trial.params)

    def place(self, number: int, point: Mapping[str, Any]) -> None:
        """Say where a trial looks."""
        if not self._sampling or number in self._told:
            return
        self._reach(number)
        identity = self._id(number)
        known = self._study.get_trials(deepcopy=False)[number].params
        for name, distribution in self._distributions.items():
            if name in point and known.get(name, _NOTHING) != point[name]:
                inner = distribution.to_internal_repr(point[name])
                self._study._storage.set_trial_param(identity, name, inner, distribution)  # noqa: SLF001 - Optuna has no public word for it
        self._placed.add(number)

    def report(self, number: int, step: int, value: float) -> None:
        """Say what a trial has reached at a step; the first word about a step counts."""
        self._reach(number)
        if number in self._told or step in self._steps.setdefault(number, set()):
            return
        self._steps[number].add(step)
        self._study._storage.set_trial_intermediate_value(self._id(number), step, value)  # noqa: SLF001

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        """Say how a trial ended; saying it again changes nothing."""
        if number in self._told:
            return
        self._reach(number)
        self._told.add(number)
        states = self._optuna.trial.TrialState
        with _quiet():
            if state == "complete" and values is not None and all(map(_usable, values)):
                self._study.tell(number, list(values), states.COMPLETE)
            elif state == "pruned" and self._steps.get(number):
                self._study.tell(number, state=states.PRUNED)
            else:
                self._study.tell(number, state=states.FAIL)

    def knows(self, number: int) -> bool:
        """Return whether it was told how a trial ended."""
        return number in self._told

    def should_prune(self, number: int) -> bool:
        """Return whether a trial is worth stopping, after what was reported last."""
        if self._spec.pruner.kind == "none" or number in self._told or not self._steps.get(number):
            return False
        found = self._study.get_trials(deepcopy=False)[number]
        with _quiet():
            return bool(self._pruner.prune(self._study, found))

    # ------------------------------------------------------------ within

    def _reach(self, number: int) -> None:
        """Make sure that Optuna has trials up to a number."""
        while (following := len(self._study.get_trials(deepcopy=False))) <= number:
            with _quiet():
                self._study.sampler = self._sampler(following)
                trial = self._study.ask()
                if self._sampling and self._spec.sampler == "cma-es":
                    _ = (
                        trial.relative_params
                    )  # it is asked late, and keeps its state with each trial that it was asked for

    def _id(self, number: int) -> int:
        found: int = self._study.get_trials(deepcopy=False)[number]._trial_id  # noqa: SLF001
        return found

    def _seed(self, number: int) -> int:
        text = f"{self._spec.seed}/{number}".encode()
        return int.from_bytes(hashlib.blake2s(text, digest_size=4).digest(), "big") >> 1

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        samplers, seed = self._optuna.samplers, self._seed(number)
        found: optuna.samplers.BaseSampler
        if self._sampling and self._spec.sampler == "tpe":
            found = samplers.TPESampler(seed=seed)
        elif self._sampling and self._spec.sampler == "cma-es":
            found = samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        else:
            found = samplers.RandomSampler(seed=seed)
        return found

    def _plain(self, sampler: optuna.samplers.BaseSampler, number: int) -> Point:
        trial = self._study.get_trials(deepcopy=False)[number]
        return {
            name: sampler.sample_independent(self._study, trial, name, distribution)
            for name, distribution in self._distributions.items()
        }


_NOTHING = object()


@cache
def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 - only a search pays for it
    except ImportError as error:
        raise Unavailable(
            "searching for parameters needs Optuna", where="tune", fix="pip install 'kilter[tune]'"
        ) from error
    return optuna


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own log and its notes on experimental parts to itself."""
    optuna = _optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(one: Dimension) -> BaseDistribution:
    kinds = _optuna().distributions
    with _quiet():
        found: BaseDistribution
        if one.kind == "choice":
            found = kinds.CategoricalDistribution(range(len(one.choices)))
        elif one.kind == "int":
            found = kinds.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
        else:
            found = kinds.FloatDistribution(float(one.low), float(one.high), log=one.log, step=one.step)
    return found


def _pruner(spec: PrunerSpec) -> optuna.pruners.BasePruner:
    pruners = _optuna().pruners
    found: optuna.pruners.BasePruner
    if spec.kind == "asha":
        found = pruners.SuccessiveHalvingPruner(min_resource=spec.first, reduction_factor=spec.factor)
    elif spec.kind == "hyperband":
        found = pruners.HyperbandPruner(
            min_resource=spec.first, max_resource=spec.last or "auto", reduction_factor=spec.factor
        )
    elif spec.kind == "median":
        found = pruners.MedianPruner(n_warmup_steps=max(spec.first - 1, 0))
    else:
        found = pruners.NopPruner()
    return found


def _usable(value: float) -> bool:
    return not math.isnan(value)
