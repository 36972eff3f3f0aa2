import numpy as np
import pytest
import sympy

from symjax_gn.data.quantities import ACCELERATION
from symjax_gn.data.units import typical_size
from symjax_gn.discovery import distillation
from symjax_gn.discovery.bases import (
    along_velocity,
    choose_basis,
    coefficients,
    combined,
    fit_matrix,
    fixed_axes,
    line_of_centres,
    off_basis_share,
)
from symjax_gn.discovery.distillation import (
    distill,
    distill_gauge,
    distill_one_body,
    flattening_power,
)
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.expressions import evaluate, to_numpy

ENGINE = OperonRegressor(evaluations=20_000, max_length=15)
RNG = np.random.default_rng(0)
COUNT = 1500


def planted(law, unit=1.0, mass_unit=1.0, force_unit=1.0, across=0.0, tilt=0.0):
    """A table whose influence is a known central force, plus a share across the line.

    The share is `across`, and `tilt` times the distance on top of it.
    """
    displacement = 2 * RNG.normal(size=(COUNT, 2))
    r = np.linalg.norm(displacement, axis=1)
    masses = np.exp(RNG.normal(size=(2, COUNT)))
    direction = displacement / r[:, None]
    turned = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    size = law(r, *masses)[:, None] * (1 + 1e-3 * RNG.normal(size=(COUNT, 1)))
    influence = size * (direction + (across + tilt * r[:, None]) * turned)
    features = {
        "dx": displacement[:, 0] * unit, "dy": displacement[:, 1] * unit, "r": r * unit,
        "m_i": masses[0] * mass_unit, "m_j": masses[1] * mass_unit,
        "q_i": np.zeros(COUNT), "q_j": np.zeros(COUNT),
        "vx_i": RNG.normal(size=COUNT), "vy_i": RNG.normal(size=COUNT),
    }  # fmt: skip
    scales = dict.fromkeys(features, unit) | {"m_i": mass_unit, "m_j": mass_unit}
    messages = influence @ np.array([[1.0, 0.2], [-0.4, 0.7]])
    return MessageTable(
        features=features, scales=scales, messages=messages, components=np.arange(2),
        force=influence * force_unit, alone=0 * influence,
        message_scale=np.ones(COUNT), offset=0 * influence, true_force=influence * force_unit,
        quantity=ACCELERATION,
    )  # fmt: skip


def off_line(table, matrix=None):
    dim = table.force.shape[1]
    return off_basis_share(table.force, line_of_centres(table.features, dim, matrix))


def matrix_of(table):
    return fit_matrix(table.force, table.features)[0]


def gravity(r, m_i, m_j):
    return m_i * m_j / r**2


def spring(r, m_i, m_j):
    return 2 * (r - 1)


@pytest.mark.parametrize(
    ("law", "units"),
    [
        (spring, (1.0, 1.0, 1.0)),
        (gravity, (1.0, 1.0, 1.0)),
        # Metres, kilograms and newtons of stars: nothing is near one.
        (gravity, (1.5e11, 2e30, 3.5e22)),
    ],
)
def test_a_central_law_comes_out_in_the_users_units(law, units):
    table = planted(law, *units)
    found = distill(table, [ENGINE], processes=1)
    assert found.form == "central"
    assert found.power == (0 if law is spring else 2)
    columns = np.stack(list(table.features.values()), axis=-1)
    for k, component in enumerate(found.components):
        value = to_numpy(component, list(table.features))(columns)
        error = np.abs(value - table.force[:, k])
        size = np.linalg.norm(table.force, axis=1)
        # The planted noise is 1e-3, the law must be better than its tail.
        assert np.median(error / size) < 5e-3
    scalar = {str(symbol) for symbol in found.scalar.free_symbols}
    assert scalar == ({"r"} if law is spring else {"r", "m_i", "m_j"})


def check_components(found, table):
    columns = np.stack(list(table.features.values()), axis=-1)
    for k, component in enumerate(found.components):
        value = to_numpy(component, list(table.features))(columns)
        assert np.median(np.abs(value - table.force[:, k])) < 0.02


def test_forces_across_the_line_of_centres_are_noticed():
    assert off_line(planted(spring)) < 1e-6
    table = planted(lambda r, m_i, m_j: r, across=0.5)
    assert off_line(table) > 0.3
    found = distill(table, [ENGINE], form="components", processes=1)
    assert found.form == "components"
    assert found.scalar is found.matrix is None
    assert found.off_axis_share == off_line(table)
    check_components(found, table)


def test_one_law_along_a_matrix_times_the_line():
    table = planted(gravity, across=0.5)
    found = distill(table, [ENGINE], processes=1)
    assert found.form == "linear"
    # (1, -0.5; 0.5, 1) with the norm of the unit matrix; planted noise does not turn forces.
    expected = np.array([[1.0, -0.5], [0.5, 1.0]]) / np.sqrt(1.25)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6)
    assert {str(symbol) for symbol in found.scalar.free_symbols} == {"r", "m_i", "m_j"}
    check_components(found, table)


def test_a_turn_that_depends_on_the_distance_has_no_matrix():
    table = planted(lambda r, m_i, m_j: 1 + 0 * r, tilt=0.5)
    assert off_line(table, matrix_of(table)) > 0.05
    assert distill(table, [ENGINE], processes=1).form == "components"


@pytest.mark.parametrize("dim", [2, 3])
def test_the_matrix_of_a_central_force_is_one(dim):
    table = planted(spring)
    if dim == 3:
        features = table.features | {"dz": RNG.normal(size=COUNT)}
        vectors = np.stack([features[f"d{axis}"] for axis in "xyz"], axis=1)
        features["r"] = np.linalg.norm(vectors, axis=1)
        table = table._replace(features=features, force=vectors * features["m_i"][:, None])
    np.testing.assert_allclose(matrix_of(table), np.eye(dim), atol=1e-6)


def test_raw_messages_can_be_regressed():
    table = planted(lambda r, m_i, m_j: r)
    found = distill(table, [ENGINE], gauge="messages", processes=1)
    assert found.form == "components"
    columns = np.stack(list(table.features.values()), axis=-1)
    value = to_numpy(found.components[0], list(table.features))(columns)
    assert np.median(np.abs(value - table.messages[:, 0])) < 0.02


def test_two_engines_share_one_front():
    table = planted(spring)
    found = distill(table, [ENGINE, OperonRegressor(evaluations=2_000, seed=1)], processes=2)
    assert len(found.fronts) == len(found.selected) == 1
    assert found.selected[0].complexity == 5


@pytest.mark.parametrize("power", [0, 1, 2])
def test_flattening_power(power):
    r = np.exp(RNG.uniform(-3, 2, 4000))
    assert flattening_power(np.abs(RNG.normal(1, 0.1, 4000)) / r**power, r) == power


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(gauge="influense"), "Did you mean 'influence'"),
        (dict(form="centre"), "Unknown form 'centre'"),
        (dict(features=("m_k",)), "Unknown feature 'm_k'"),
        (dict(form="central", gauge="messages"), "Raw messages have no direction"),
        (dict(form="linear", gauge="messages"), "Raw messages have no direction"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        distill(planted(spring), [ENGINE], **options)


def test_coincident_pairs_are_left_out():
    table = planted(spring)
    features = {name: column.copy() for name, column in table.features.items()}
    for name in ("dx", "dy", "r"):
        features[name][:5] = 0.0
    found = distill(table._replace(features=features), [ENGINE], processes=1)
    assert found.form == "central"
    assert found.selected[0].complexity == 5
    together = {name: 0 * column for name, column in features.items()}
    with pytest.raises(ValueError, match="All pairs of the table coincide"):
        distill(table._replace(features=together), [ENGINE])


def test_fronts_are_in_the_users_units():
    table = planted(gravity, 1.5e11, 2e30, 3.5e22)
    found = distill(table, [ENGINE], processes=1)
    assert found.selected[0] in found.fronts[0].laws
    assert found.selected[0].expression == found.scalar
    assert found.error_unit == "|target| + 0.1 typical |target|"
    plain = distill(planted(spring), [ENGINE], relative_error=False, processes=1)
    assert plain.error_unit == "target"
    assert distill(table, [ENGINE], relative_error=False, processes=1).error_unit == "target x r^2"


def test_drag_is_found_along_the_velocity():
    table = planted(spring)
    velocity = np.stack([table.features["vx_i"], table.features["vy_i"]], axis=1)
    noise = 1e-2 * RNG.normal(size=velocity.shape)
    found = distill_one_body(table._replace(alone=-0.5 * velocity + noise), [ENGINE])
    assert found.form == "along velocity"
    columns = np.stack(list(table.features.values()), axis=-1)
    for k in range(2):
        value = to_numpy(found.components[k], list(table.features))(columns)
        # The noise, averaged over the samples that the constants are fitted to.
        np.testing.assert_allclose(value, -0.5 * velocity[:, k], atol=2e-2)


def test_gravity_is_found_component_by_component():
    table = planted(spring)
    down = np.stack([np.zeros(COUNT), -9.8 * table.features["m_i"]], axis=1)
    noise = 1e-2 * RNG.normal(size=down.shape)
    found = distill_one_body(table._replace(alone=down + noise), [ENGINE])
    assert found.form == "components"
    assert found.components[0] == 0
    assert found.components[1].free_symbols == {sympy.Symbol("m_i")}
    assert float(found.components[1].coeff(sympy.Symbol("m_i"))) == pytest.approx(-9.8, rel=1e-2)


def test_no_force_on_a_body_alone():
    table = planted(spring)
    small = table._replace(alone=1e-3 * RNG.normal(size=(COUNT, 2)))
    found = distill_one_body(small, [ENGINE])
    assert found.form == "none"
    assert found.components == (0, 0)
    with pytest.raises(ValueError, match="Unknown feature 'm_k'"):
        distill_one_body(small, [ENGINE], features=("m_k",))


def test_the_gauge_of_messages_is_a_law_of_the_receiver():
    table = planted(spring)
    law = distill_gauge(table, [ENGINE])
    assert law.expression == 1 and law.mae < 0.02
    mass = table.features["m_i"]
    law = distill_gauge(table._replace(message_scale=2.5 / mass), [ENGINE])
    value = to_numpy(law.expression, ["m_i"])(mass[:, None])
    np.testing.assert_allclose(value * mass, 2.5, rtol=1e-2)
    assert law.mae < 0.01


class Stopped(Exception):
    """Ends a run once it is known what would be searched for."""


@pytest.mark.parametrize("relative", [True, False])
def test_errors_of_the_search_are_relative_to_the_force(monkeypatch, relative):
    seen = []

    def search(regressors, problems, *args, **options):
        seen.extend(problems)
        raise Stopped

    monkeypatch.setattr(distillation, "search", search)
    with pytest.raises(Stopped):
        distill(planted(gravity), [ENGINE], form="central", relative_error=relative, power=0)
    (problem,) = seen
    size = np.abs(problem.target)
    expected = 1 / (size + 0.1 * typical_size(size)) if relative else np.ones_like(size)
    np.testing.assert_allclose(problem.weight, expected)


def test_no_engine():
    with pytest.raises(ValueError, match="at least one regressor"):
        distill(planted(spring), [])


def test_constant_influence_is_an_error():
    table = planted(lambda r, m_i, m_j: np.ones_like(r))
    flat = table._replace(force=np.ones_like(table.force))
    with pytest.raises(ValueError, match="constant: there is no law"):
        distill(flat, [ENGINE], form="components", power=0, processes=1)


def test_law_is_free_of_floats_that_are_units():
    found = distill(planted(spring), [ENGINE], processes=1)
    assert found.components[0].free_symbols == set(sympy.symbols("r dx"))


def test_bodies_that_are_all_alike():
    """Data without masses and charges: there is nothing for a gauge to depend on."""
    table = planted(spring)
    features = table.features | {"m_i": np.ones(COUNT), "q_i": np.zeros(COUNT)}
    restless = np.exp(0.1 * RNG.normal(size=COUNT))
    law = distill_gauge(table._replace(features=features, message_scale=restless), [ENGINE])
    # No law of nothing explains noise of 10%, and its error says so.
    assert law.expression == 1 and law.mae == pytest.approx(0.08, abs=0.02)


def test_one_dimension():
    table = planted(spring)
    x = 2 * RNG.normal(size=COUNT)
    features = {k: v for k, v in table.features.items() if "y" not in k} | {"dx": x, "r": abs(x)}
    table = table._replace(features=features, force=(2 * (abs(x) - 1) * np.sign(x))[:, None])
    found = distill(table, [ENGINE], processes=1)
    assert found.form == "central" and len(found.components) == 1
    np.testing.assert_array_equal(matrix_of(table), [[1.0]])


def test_drag_of_several_terms_is_nothing_at_rest():
    table = planted(spring)
    velocity = np.stack([table.features["vx_i"], table.features["vy_i"]], axis=1)
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    found = distill_one_body(table._replace(alone=-(1 + 0.5 * speed) * velocity), [ENGINE])
    rest = {sympy.Symbol("vx_i"): 0.0, sympy.Symbol("vy_i"): 0.0}
    assert [component.subs(rest) for component in found.components] == [0, 0]
    values = {sympy.Symbol("vx_i"): 3.0, sympy.Symbol("vy_i"): 4.0}
    assert float(found.components[0].subs(values)) == pytest.approx(-10.5, rel=0.02)


def test_bases_hold_what_they_span():
    table = planted(spring)
    dim = 2
    line = line_of_centres(table.features, dim)
    size = np.linalg.norm(table.force, axis=1)
    along = coefficients(table.force, line)[:, 0]
    np.testing.assert_allclose(np.abs(along), size, rtol=1e-9)
    axes = fixed_axes(COUNT, dim)
    np.testing.assert_allclose(coefficients(table.force, axes), table.force, rtol=1e-9)
    assert choose_basis(table.force, [line, axes]) is line
    turned = np.stack([-table.force[:, 1], table.force[:, 0]], axis=1)
    assert choose_basis(turned, [line, axes]) is axes
    # One in twenty: the limit, from either side.
    for part, chosen in ((0.04, line), (0.07, axes)):
        assert choose_basis(table.force + part * turned, [line, axes]) is chosen


def test_laws_along_a_basis_are_laws_along_the_axes():
    features = planted(spring).features
    motion = along_velocity(features, 2)
    speed, mass = sympy.symbols("v m_i")
    laws = combined([-2.0 * speed - mass], motion)
    velocity = np.stack([features["vx_i"], features["vy_i"]], axis=1)
    pace = np.linalg.norm(velocity, axis=1)
    expected = (-2 - features["m_i"] / pace)[:, None] * velocity
    for law, column in zip(laws, expected.T, strict=True):
        np.testing.assert_allclose(evaluate(law, features), column, rtol=1e-9)
    # A body at rest feels no drag, linear or with a quadratic part.
    rest = features | {"vx_i": np.zeros(COUNT), "vy_i": np.zeros(COUNT)}
    for law in (-2.0 * speed, -2.0 * speed - 0.5 * speed**2):
        assert np.all(evaluate(combined([law], motion)[0], rest) == 0)
    assert np.all(along_velocity(rest, 2).vectors == 0)
    assert along_velocity({"r": pace}, 2) is None


def test_a_linear_basis_is_turned_by_its_matrix():
    features = planted(spring).features
    matrix = np.array([[0.0, -1.0], [1.0, 0.0]])
    basis = line_of_centres(features, 2, matrix)
    expected = np.stack([-features["dy"], features["dx"]], axis=1) / features["r"][:, None]
    np.testing.assert_allclose(basis.vectors[:, 0], expected)
    for law, column in zip(combined([sympy.Symbol("r")], basis), expected.T, strict=True):
        np.testing.assert_allclose(evaluate(law, features), column * features["r"], atol=1e-12)


def test_forces_are_off_a_basis_where_most_of_them_are():
    """Two of five are across the line altogether, which is no matter of the median."""
    angle = np.linspace(0.0, 6.0, 50)
    features = {"dx": np.cos(angle), "dy": np.sin(angle), "r": np.ones(50)}
    line = line_of_centres(features, 2)
    unit = line.vectors[:, 0]
    across = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    for share, off in ((0.4, 0.0), (0.6, 1 / 1.1)):
        turned = (np.arange(50) < share * 50)[:, None]
        # Of what is across all is off, over its size and a tenth of the typical one.
        found = off_basis_share(np.where(turned, across, unit), line)
        assert found == pytest.approx(off, abs=1e-9)
