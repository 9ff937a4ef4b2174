"""Fitting models to training rows, and measuring them on rows they have not seen. Needs the extra `models`.

What comes out is data (`scoring`, `purchases`, `spending`); scikit-learn and SciPy are needed for fitting only, never for scoring. Nothing here is
random: folds follow from customers' keys, so the same rows give the same model. Imports training, scoring, purchases, spending, metrics.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from postsale.errors import InvalidInput, MissingExtra
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.metrics import Bin, auc, brier, calibration_error, calibration_table
from postsale.projections.purchases import PurchaseModel, PurchaseState, state_of
from postsale.projections.scoring import PPM, Category, Isotonic, LogisticModel, Number, Platt, Probability, number_of
from postsale.projections.spending import ValueModel
from postsale.projections.training import LABEL, columns_of, feature_rows, pyarrow

_MOST_LEVELS: Final = 50
_LEAST_ROWS: Final = 2  # of a level: one customer's own text is no category


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a logistic model is fitted: to which rows' label, from which inputs (all features by default), calibrated how.

    A number or a truth counts as it is, a time by its age in days, a map or a collection by its size, a text by its value.
    A row counts as positive when its label is true or above 0. `l2` is the strength of the ridge penalty on standardised inputs.
    """

    features: type[Features]
    label: str  # a feature of the outcome's declaration
    name: str
    outcome: str  # in words, with its horizon
    owner: str
    version: int = 1
    inputs: tuple[str, ...] = ()
    l2: float = 1.0
    calibration: Literal["platt", "isotonic"] | None = "platt"
    folds: int = 5

    def fit(self, table: Any, *, data_set: str) -> LogisticModel:
        """The model of the rows that are not censored. `data_set` is the id of the rows, which the model names.

        It is calibrated on predictions for customers that were left out of the fit. InvalidInput for rows without both outcomes,
        or of too few customers for the folds.
        """
        rows = _Rows.of(table, self)
        model = self._uncalibrated(rows, data_set)
        if self.calibration is None:
            return model
        log_odds: list[float] = []
        labels: list[bool] = []
        for train, test in rows.folds(self.folds, b"calibration"):
            part = self._uncalibrated(train, data_set)
            log_odds += [part.log_odds_micro(v) / PPM for v in test.values]
            labels += test.labels
        return model.model_copy(update={"calibration": _calibration(self.calibration, log_odds, labels, data_set)})

    def cross_validated(self, table: Any) -> Report:
        """Measures on customers that were left out, each once; calibration included. For rows of one time."""
        rows = _Rows.of(table, self)
        labels: list[bool] = []
        said: list[float] = []
        for train, test in rows.folds(self.folds, b"report"):
            model = self.fit(train.table, data_set="fold")
            labels += test.labels
            said += [_share(model, v) for v in test.values]
        return _report(labels, said)

    def back_tested(self, table: Any, cut: datetime, *, horizon: timedelta) -> Report:
        """Measures on rows from `cut` on, of a model that was fitted on rows whose outcome was over by then. Split by time."""
        pa, pc = pyarrow(), pyarrow().compute
        over = pc.less_equal(pc.add(table.column("as_of"), pa.scalar(horizon)), pa.scalar(cut))
        model = self.fit(table.filter(over), data_set="before the cut")
        later = _Rows.of(table.filter(pc.greater_equal(table.column("as_of"), pa.scalar(cut))), self)
        return _report(later.labels, [_share(model, v) for v in later.values])

    def _uncalibrated(self, rows: _Rows, data_set: str) -> LogisticModel:
        linear = _extra("sklearn.linear_model")
        np = _extra("numpy")
        columns = [_Column.learnt(name, rows) for name in (self.inputs or _usable(self.features, rows.table))]
        matrix = np.column_stack([c for column in columns for c in column.matrix(rows, np)])
        fitted = linear.LogisticRegression(C=1 / self.l2, max_iter=10_000).fit(matrix, np.array(rows.labels))
        coefficients = iter(fitted.coef_[0].tolist())
        return LogisticModel(
            name=self.name,
            version=self.version,
            owner=self.owner,
            outcome=self.outcome,
            features=self.features.digest,
            intercept=float(fitted.intercept_[0]),
            terms=tuple(column.term(coefficients) for column in columns),
            trained_on=data_set,
        )


class Report(NamedTuple):
    """How good probabilities were on rows that the model had not seen. `brier_of_base_rate` is what saying one number to all gives."""

    rows: int
    positives: int
    auc: float
    brier: float
    brier_of_base_rate: float
    calibration_error: float
    calibration: tuple[Bin, ...]


def _report(labels: list[bool], said: list[float]) -> Report:
    positives, table = sum(labels), calibration_table(labels, said)
    base = positives / len(labels)
    return Report(
        len(labels), positives, auc(labels, said), brier(labels, said), base * (1 - base), calibration_error(table), table
    )  # fmt: skip


def _share(model: LogisticModel, values: FeatureValues) -> float:
    score = model.score(values)
    return (score.probability_ppm if isinstance(score, Probability) else score.rank_ppm) / PPM


# ---------------------------------------------------------------- rows and columns


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that are not censored: the table, the values as scorers take them, the labels."""

    table: Any
    values: list[FeatureValues]
    labels: list[bool]
    customers: list[str]

    @classmethod
    def of(cls, table: Any, recipe: Recipe) -> _Rows:
        if (label := LABEL + recipe.label) not in table.column_names:
            raise InvalidInput(what="training rows", field=label, reason="the rows have no such label")
        kept = table.filter(pyarrow().compute.invert(table.column("censored")))
        labels = [bool(value) for value in kept.column(label).to_pylist()]
        if len(set(labels)) < 2:
            raise InvalidInput(what="training rows", field=label, reason="all the same; expected rows with and without the outcome")
        return cls(kept, list(feature_rows(kept, recipe.features)), labels, kept.column("customer").to_pylist())

    def folds(self, n: int, salt: bytes) -> list[tuple[_Rows, _Rows]]:
        """Training and held-out rows, n times; all rows of a customer are on one side. Another `salt` cuts otherwise: folds nest."""
        digests = {customer: hashlib.blake2b(customer.encode(), digest_size=8, person=salt) for customer in set(self.customers)}
        of = {customer: int.from_bytes(digest.digest()) % n for customer, digest in digests.items()}
        mine = [of[customer] for customer in self.customers]
        split = []
        for fold in range(n):
            train, test = [i for i, f in enumerate(mine) if f != fold], [i for i, f in enumerate(mine) if f == fold]
            if len({self.labels[i] for i in train}) < 2 or not test:
                reason = f"too few customers with and without the outcome for {n} folds"
                raise InvalidInput(what="training rows", field="folds", reason=reason)
            split.append((self._take(train), self._take(test)))
        return split

    def _take(self, index: Sequence[int]) -> _Rows:
        table = self.table.take(pyarrow().array(index, "int64"))
        return _Rows(table, [self.values[i] for i in index], [self.labels[i] for i in index], [self.customers[i] for i in index])


@dataclass(frozen=True, slots=True)
class _Column:
    """One input: how it becomes numbers, learnt from training rows only."""

    name: str
    of: Literal["value", "age_days", "size", "category"]
    levels: tuple[str, ...] = ()
    other: bool = False  # whether a column of its own says: missing, or another level
    center: float = 0.0
    scale: float = 1.0

    @classmethod
    def learnt(cls, name: str, rows: _Rows) -> _Column:
        if name not in rows.table.column_names:
            raise InvalidInput(what="training rows", field=name, reason=f"not among the columns: {', '.join(rows.table.column_names)}")
        of = _kind(rows.table.schema.field(name).type)
        if of is None:
            raise InvalidInput(what="training rows", field=name, reason="neither a number, a text, a time nor a collection")
        values = [v[name] for v in rows.values]
        if of == "category":
            counts: dict[str, int] = {}
            for value in values:
                if value is not None:
                    counts[value] = counts.get(value, 0) + 1
            frequent = sorted((level for level, n in counts.items() if n >= _LEAST_ROWS), key=lambda level: (-counts[level], level))
            levels = tuple(sorted(frequent[:_MOST_LEVELS]))
            return cls(name, of, levels, any(value not in levels for value in values))
        numbers = [number_of(of, value, v.as_of_us) for value, v in zip(values, rows.values, strict=True) if value is not None]
        np = _extra("numpy")
        center = float(np.mean(numbers)) if numbers else 0.0
        scale = float(np.std(numbers)) if numbers else 0.0
        return cls(name, of, (), len(numbers) < len(values), center, scale if scale > 0 else 1.0)

    def matrix(self, rows: _Rows, np: Any) -> list[Any]:
        """Its columns: one per level, or the standardised number; then, if needed, one for what is missing."""
        values = [v[self.name] for v in rows.values]
        if self.of == "category":
            found = [np.array([value == level for value in values], dtype=float) for level in self.levels]
            missing = [value not in self.levels for value in values]
        else:
            of, center, scale = self.of, self.center, self.scale
            scaled = [
                0.0 if value is None else (number_of(of, value, v.as_of_us) - center) / scale
                for value, v in zip(values, rows.values, strict=True)
            ]
            found, missing = [np.array(scaled)], [value is None for value in values]
        return [*found, np.array(missing, dtype=float)] if self.other else found

    def term(self, coefficients: Any) -> Number | Category:
        """The model's term; takes as many coefficients as `matrix` gives columns."""
        if self.of == "category":
            levels = {level: next(coefficients) for level in self.levels}
            return Category(feature=self.name, levels=levels, other=next(coefficients) if self.other else 0.0)
        number = Number(feature=self.name, of=self.of, coefficient=next(coefficients), center=self.center, scale=self.scale)
        return number.model_copy(update={"missing": next(coefficients)}) if self.other else number


def _kind(type_: Any) -> Literal["value", "age_days", "size", "category"] | None:
    types = pyarrow().types
    if types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_):
        return "value"
    if types.is_timestamp(type_):
        return "age_days"
    if types.is_map(type_) or types.is_list(type_):
        return "size"
    return "category" if types.is_string(type_) else None


def _usable(features: type[Features], table: Any) -> tuple[str, ...]:
    names = [*(leaf.name for leaf in columns_of(features)), *(d.name for d in features.deriveds)]
    return tuple(name for name in names if not table.schema.field(name).metadata)


def _calibration(kind: str, log_odds: list[float], labels: list[bool], data_set: str) -> Platt | Isotonic:
    np = _extra("numpy")
    if kind == "platt":
        curve = _extra("sklearn.linear_model").LogisticRegression(C=1e6, max_iter=10_000)
        curve.fit(np.array(log_odds).reshape(-1, 1), np.array(labels))
        return Platt(slope=float(curve.coef_[0][0]), offset=float(curve.intercept_[0]), calibrated_on=data_set)
    steps = _extra("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1).fit(log_odds, np.array(labels, dtype=float))
    points = dict(zip(steps.X_thresholds_.tolist(), steps.y_thresholds_.tolist(), strict=True))
    return Isotonic(log_odds=tuple(points), probabilities=tuple(points.values()), calibrated_on=data_set)


# ---------------------------------------------------------------- purchases


def fit_purchases(
    table: Any, features: type[Features], *, purchases: str, first: str, last: str, horizon: timedelta, name: str, owner: str,
    version: int = 1, data_set: str,
) -> PurchaseModel:  # fmt: skip
    """BG/NBD by maximum likelihood over the rows' customers; each should have one row. See `purchases` for the source.

    InvalidInput when nobody bought twice: there is then no rate to estimate.
    """
    states = [state_of(v[purchases], v[first], v[last], v.as_of_us) for v in feature_rows(table, features)]
    r, alpha, a, b = fit_bg_nbd([state for state in states if state is not None])
    return PurchaseModel(
        name=name, version=version, owner=owner, features=features.digest, trained_on=data_set,
        purchases=purchases, first=first, last=last, horizon_days=horizon / timedelta(days=1), r=r, alpha=alpha, a=a, b=b,
    )  # fmt: skip


def fit_bg_nbd(states: Sequence[PurchaseState]) -> tuple[float, float, float, float]:
    """r, alpha (days), a and b that make these states most likely: equation 6 of the source."""
    np, optimize, special = _extra("numpy"), _extra("scipy.optimize"), _extra("scipy.special")
    if not any(state.x for state in states):
        raise InvalidInput(what="purchases", field="rows", reason="no customer bought twice")
    unique, weights = np.unique(np.array(states, dtype=float), axis=0, return_counts=True)
    x, t_x, age = unique.T
    unit = float(age.max()) / 10 or 1.0  # ages near 1 keep the parameters near 1, which is where the search begins
    t_x, age = t_x / unit, age / unit
    repeated = x > 0
    at_least_one = np.maximum(x, 1)

    def negative(logs: Any) -> float:
        r, alpha, a, b = np.exp(logs)
        gammas = special.gammaln(r + x) - special.gammaln(r) + r * np.log(alpha)
        betas = special.betaln(a, b + x) - special.betaln(a, b)
        stayed = -(r + x) * np.log(alpha + age)
        left = np.where(repeated, np.log(a / (b + at_least_one - 1)) - (r + x) * np.log(alpha + t_x), -np.inf)
        return float(-np.sum(weights * (gammas + betas + np.logaddexp(stayed, left))) / weights.sum())

    found = optimize.minimize(negative, np.zeros(4), method="L-BFGS-B", bounds=[(-10.0, 10.0)] * 4)
    r, alpha, a, b = (float(v) for v in np.exp(found.x))
    return r, alpha * unit, a, b


# ---------------------------------------------------------------- spend


def fit_value(
    table: Any, features: type[Features], purchases: PurchaseModel, *, spent: str, bought: str, currency: str, name: str, owner: str,
    version: int = 1, data_set: str,
) -> ValueModel:  # fmt: skip
    """Gamma-gamma by maximum likelihood over the customers with a purchase in `currency`, beside a model of purchases over the same features.

    `spent` is a total in minor units, by currency or of one alone, and `bought` the number of purchases in it. InvalidInput when fewer
    than two customers spent differently.
    """
    spends = []
    for v in feature_rows(table, features):
        total = v[spent].get(currency) if isinstance(v[spent], Mapping) else v[spent]
        if total and v[bought]:
            spends.append((v[bought], total / v[bought]))
    p, q, gamma = fit_gamma_gamma(spends)
    return ValueModel(
        name=name, version=version, owner=owner, features=features.digest, trained_on=data_set, purchases=purchases,
        spent=spent, bought=bought, currency=currency, p=p, q=q, gamma=gamma,
    )  # fmt: skip


def fit_gamma_gamma(spends: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """p, q and gamma that make these (number of purchases, mean of them) most likely: equation 1a of the note; means above 0.

    InvalidInput when the means do not differ, or when so few are large that the mean of all customers is infinite (q of 1 or less).
    """
    np, optimize, special = _extra("numpy"), _extra("scipy.optimize"), _extra("scipy.special")
    unique, weights = np.unique(np.array(spends, dtype=float).reshape(-1, 2), axis=0, return_counts=True)
    if len(set(unique[:, 1].tolist())) < 2:
        raise InvalidInput(what="spend", field="rows", reason="the customers' means do not differ; expected at least two that do")
    x, mean = unique.T
    unit = float(np.average(mean, weights=weights))  # in means of all, parameters are near 1, which is where the search begins
    m = mean / unit

    def negative(logs: Any) -> float:
        p, q, gamma = np.exp(logs)
        ll = special.gammaln(p * x + q) - special.gammaln(p * x) - special.gammaln(q) + q * np.log(gamma)
        ll += (p * x - 1) * np.log(m) + p * x * np.log(x) - (p * x + q) * np.log(gamma + m * x)
        return float(-np.sum(weights * ll) / weights.sum())

    found = optimize.minimize(negative, np.ones(3), method="L-BFGS-B", bounds=[(-10.0, 10.0)] * 3)
    p, q, gamma = (float(v) for v in np.exp(found.x))
    if q <= 1:
        raise InvalidInput(what="spend", field="rows", reason=f"q is {q:.2f}: means differ so much that their own mean is infinite")
    return p, q, gamma * unit


def correlation(spends: Sequence[tuple[int, float]]) -> float:
    """Pearson's, between how often and how much, -1 … 1: gamma-gamma takes it for 0. NaN where one of them does not vary."""
    np = _extra("numpy")
    x, mean = np.array(spends, dtype=float).reshape(-1, 2).T
    return float(np.corrcoef(x, mean)[0, 1]) if x.std() > 0 and mean.std() > 0 else math.nan


# ---------------------------------------------------------------- the extra


def require_fitting() -> None:
    """MissingExtra unless all that training needs is installed, its rows too: before any work is done."""
    for module in ("pyarrow", "scipy", "sklearn"):
        _extra(module)


def _extra(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(feature="fitting models", extra="models") from None
