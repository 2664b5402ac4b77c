"""Which setting to try next: all of them where they are few, else what Optuna's sampler expects much of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae.errors import MissingPackageError
from edgeae.sweeping.record import Parameter, Trial
from edgeae.sweeping.space import combinations, grid, value_of, without_idle_width

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["check_search", "next_setting"]

ATTEMPTS = 100  # to find a setting that was not tried; the later ones draw at random
AIMED = 10


def check_search(parameters: Sequence[Parameter], trials: int) -> None:
    """Refuse before any work is done what needs Optuna where there is none.

    Raises:
        MissingPackageError: naming both ways out.
    """
    count = combinations(parameters)
    if count <= trials:
        return
    try:
        import optuna  # noqa: F401 - only to learn whether it is there
    except ImportError:
        settings = "infinitely many settings (a range)" if math.isinf(count) else f"{count:.0f} settings"
        every = "" if math.isinf(count) else f", or try all of them with --trials {count:.0f}"
        raise MissingPackageError(
            f"there are {settings} and {trials} trials; choosing among them needs Optuna: "
            f"pip install 'edgeae[sweep]'{every}"
        ) from None


def next_setting(parameters: Sequence[Parameter], done: Sequence[Trial], *, trials: int, seed: int) -> Any:
    """Return a setting that was not tried, or None where there is none (or none is found).

    It follows from the trials done and the seed alone, so that a sweep that was interrupted goes on as if nothing had
    happened.

    Args:
        parameters: What is varied.
        done: All trials so far.
        trials: How many there will be in all; settings that are no more than these are all tried.
        seed: Of the order, or of the sampler.
    """
    tried = [trial.setting for trial in done]
    if combinations(parameters) <= trials:
        return next((setting for setting in grid(parameters, seed) if setting not in tried), None)
    for attempt in range(ATTEMPTS):
        setting = _propose(parameters, done, seed=_mixed(seed, len(done), attempt), aimed=attempt < AIMED)
        if setting not in tried:
            return setting
    return None


def _propose(parameters: Sequence[Parameter], done: Sequence[Trial], *, seed: int, aimed: bool) -> dict[str, str]:
    """Ask a sampler that knows the trials done: error, bytes of a row, size and operations are all to be small.

    Operations stand for latency, whose noise would make the search another one each time. The sampler is the
    tree-structured Parzen estimator for several objectives (Ozaki et al., 2022, https://doi.org/10.1613/jair.1.13188).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: Any = optuna.samplers.TPESampler(seed=seed) if aimed else optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(directions=["minimize"] * 4, sampler=sampler)
    distributions = {parameter.name: _distribution(parameter) for parameter in parameters}
    for trial in done:
        if trial.points:
            study.add_trial(
                optuna.trial.create_trial(
                    params={
                        each.name: _coded(each, trial.setting) for each in parameters if each.name in trial.setting
                    },
                    distributions={name: distributions[name] for name in distributions if name in trial.setting},
                    values=_objectives(trial),
                )
            )
    suggested = study.ask(distributions).params
    setting = {each.name: _decoded(each, suggested[each.name]) for each in parameters}
    return without_idle_width(setting)


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _objectives(trial: Trial) -> list[float]:
    exact = min(trial.points, key=lambda point: point.mse)
    values = (exact.mse, exact.row_bytes, exact.model_bytes, trial.operations)
    return [math.log(max(value, 1e-12)) for value in values]


def _numbers(parameter: Parameter) -> bool:
    return all(isinstance(value_of(parameter.name, text), int | float) for text in parameter.values)


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.low is None or parameter.high is None:
        if _numbers(parameter):
            return IntDistribution(0, len(parameter.values) - 1)  # the place among the values, which have an order
        return CategoricalDistribution(parameter.values)
    if isinstance(value_of(parameter.name, f"{parameter.low:.0f}"), int):
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.low > 0)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.low > 0)


def _coded(parameter: Parameter, setting: dict[str, str]) -> Any:
    text = setting[parameter.name]
    if parameter.low is not None:
        return value_of(parameter.name, text)
    return _sorted(parameter).index(text) if _numbers(parameter) else text


def _decoded(parameter: Parameter, suggested: Any) -> str:
    if parameter.low is not None:
        return f"{suggested:.4g}" if isinstance(suggested, float) else str(suggested)
    return _sorted(parameter)[suggested] if _numbers(parameter) else str(suggested)


def _sorted(parameter: Parameter) -> list[str]:
    return sorted(parameter.values, key=lambda text: value_of(parameter.name, text))
