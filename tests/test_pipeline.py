import dataclasses
import json

import jax
import jraph
import numpy as np
import pytest
import sympy

from symjax_gn import learning
from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import take
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.discovery import factoring, formulas, structure
from symjax_gn.laws.law_files import load_law
from symjax_gn.model import held_out_error
from symjax_gn.networks.saving import load_network
from symjax_gn.physics.simulation import simulate
from symjax_gn.physics.systems import SYSTEMS, System
from symjax_gn.pipeline import as_dataset, discover
from symjax_gn.settings import STEPS, STEPS_TO_COMPARE, Settings, check_settings, preset

QUICK = Settings(
    fits=60,
    steps=40,
    width=8,
    depth=1,
    evaluations=2000,
    searches=1,
    batch_size=16,
    form="central",
)

DATA = dataclasses.replace(QUICK, form="auto", route="data")


def test_one_call_from_a_trajectory_to_a_law_and_its_files(tmp_path, spring_trajectory):
    stages, laws = [], []
    found = discover(
        jax.random.key(0),
        spring_trajectory,
        QUICK,
        system=SYSTEMS["spring"],
        on_stage=stages.append,
        on_law=laws.append,
        folder=tmp_path,
    )
    assert found.route == "messages" and not laws
    assert stages == ["train", "regress", "refit", "certify"]
    assert found.verdict is not None and not found.verdict.recovered
    assert found.law is not None and load_law(tmp_path / "law.json") == found.law
    network = load_network(tmp_path / "network.msgpack")
    graphs = found.parts[2].graphs
    np.testing.assert_array_equal(network.predict(graphs), found.trained.predict(graphs))
    # What is printed last, judged and saved is one law.
    assert found.law_error == held_out_error(found.law, found.parts[2])
    assert found.test_error == held_out_error(found.trained, found.parts[2])
    assert found.refit is not None
    contents = found.write(tmp_path, system="spring", seed=0)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["quantity"] == "acceleration" and read["dim"] == 2 and read["n"] == 4
    assert read["model"]["update"][0]["sympy"] == str(found.law.update[0])
    assert contents["recovered"] is False


def test_parts_of_a_run_never_mix_recordings(spring_trajectory):
    found = discover(jax.random.key(0), spring_trajectory, QUICK)
    groups = [set(part.group.tolist()) for part in found.parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert found.verdict is None
    assert sum(map(len, groups)) == len(spring_trajectory.position)


def test_the_law_is_judged_and_measured_on_test_data_and_refitted_on_training_data(
    monkeypatch, spring_trajectory
):
    from symjax_gn.discovery import certificate, factoring, recording, refitting, verdict

    seen = {}

    def spy(module, name, places):
        old = getattr(module, name)

        def called(*args, **options):
            seen[name] = [args[k].group for k in places]
            return old(*args, **options)

        monkeypatch.setattr(module, name, called)

    spy(verdict, "judge", (3, 4))
    spy(factoring, "find_terms", (0, 1))
    spy(factoring, "find_laws", (1, 2))
    spy(refitting, "refit", (2,))
    spy(certificate, "certify", (2, 3))
    spy(refitting, "law_error", (2,))
    spy(recording, "record_messages", (2,))
    key, factored = jax.random.key(0), dataclasses.replace(QUICK, form="auto")
    discover(key, spring_trajectory, QUICK, system=SYSTEMS["spring"])
    found = discover(key, spring_trajectory, factored, system=SYSTEMS["spring"])
    train, validation, test = (part.group for part in found.parts)
    np.testing.assert_array_equal(seen["judge"][0], train)
    np.testing.assert_array_equal(seen["judge"][1], test)
    np.testing.assert_array_equal(seen["refit"][0], train)
    for search in ("find_terms", "find_laws"):
        np.testing.assert_array_equal(seen[search][0], train)
        np.testing.assert_array_equal(seen[search][1], validation)
    np.testing.assert_array_equal(seen["certify"][0], train)
    np.testing.assert_array_equal(seen["certify"][1], test)
    np.testing.assert_array_equal(seen["law_error"][0], test)
    np.testing.assert_array_equal(seen["record_messages"][0], train)


def test_data_alone_give_a_law_without_a_network(tmp_path, spring_trajectory):
    laws, stages = [], []
    found = discover(
        jax.random.key(0),
        spring_trajectory,
        DATA,
        system=SYSTEMS["spring"],
        folder=tmp_path,
        on_law=laws.append,
        on_stage=stages.append,
    )
    assert found.route == "data" and found.trained is found.table is found.test_error is None
    assert found.verdict.says == "exact" and found.certificate.says == "believe"
    assert "explained" not in found.certificate.checks
    (law,) = laws
    assert law.message == found.law.message and stages[0] == "search"
    assert not (tmp_path / "network.msgpack").exists()
    report = found.write(tmp_path)
    assert report["route"] == dict(asked="data", found="data") and report["test_error"] is None
    assert "No network was trained" in (tmp_path / "report.md").read_text()
    assert set(found.figures()) == {"law.png", "pareto_0.png"}


def test_the_law_is_known_and_saved_before_the_network_is_trained(
    tmp_path, monkeypatch, spring_trajectory
):
    def fails(*args, **options):
        raise KeyboardInterrupt

    settings, laws = dataclasses.replace(QUICK, form="auto"), []
    monkeypatch.setattr(learning, "fit", fails)
    with pytest.raises(KeyboardInterrupt):
        discover(
            jax.random.key(0), spring_trajectory, settings, folder=tmp_path, on_law=laws.append
        )
    assert laws == [load_law(tmp_path / "law.json")]


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        (dict(steps=None), STEPS_TO_COMPARE),
        (dict(steps=None, strategy="standard"), STEPS),
        (dict(steps=40), 40),
    ],
)
def test_a_network_to_compare_has_a_short_schedule(monkeypatch, spring_trajectory, changed, steps):
    seen, plain = [], learning.fit

    def fit(*args, **options):
        seen.append(options["steps"])
        return plain(*args, **(options | dict(steps=40)))

    monkeypatch.setattr(learning, "fit", fit)
    settings = dataclasses.replace(QUICK, form="auto", **changed)
    found = discover(jax.random.key(0), spring_trajectory, settings)
    assert seen == [steps] and found.route == "data"
    assert found.certificate.checks["explained"]["holds"]


def test_terms_that_err_more_than_the_network_give_way_to_messages(monkeypatch, spring_trajectory):
    plain, searched = factoring.find_terms, []

    def find_terms(*args, **options):
        terms = plain(*args, **options)
        found = terms.state.found
        found = found._replace(errors=np.full_like(found.errors, 10.0))
        return terms._replace(state=terms.state._replace(found=found))

    monkeypatch.setattr(factoring, "find_terms", find_terms)
    monkeypatch.setattr(factoring, "find_laws", lambda *_, **__: searched.append(1))
    found = discover(jax.random.key(0), spring_trajectory, dataclasses.replace(QUICK, form="auto"))
    assert found.route == "messages" and found.steps == () and not searched


def test_noisy_accelerations_are_weighted_alike_and_laws_told_by_all_of_them(
    monkeypatch, spring_trajectory
):
    dataset = make_dataset(spring_trajectory)
    exact = np.asarray(dataset.target)
    size = 0.05 * np.median(np.linalg.norm(exact, axis=-1))
    noise = size * np.random.default_rng(0).normal(size=exact.shape).astype(np.float32)
    dataset = dataclasses.replace(dataset, target=exact + noise)
    seen = {}

    def spy(module, name, place):
        old = getattr(module, name)

        def called(*args, **options):
            seen[name] = args[place]
            return old(*args, **options)

        monkeypatch.setattr(module, name, called)

    spy(structure, "fit_to", 1)
    spy(formulas, "choose", 2)
    spy(formulas, "finish", 1)
    monkeypatch.setattr(factoring, "_COMPARED", 600)
    settings = dataclasses.replace(QUICK, form="auto")
    found = discover(jax.random.key(0), dataset, settings, system=SYSTEMS["spring"])
    assert set(seen) == {"fit_to", "choose", "finish"}
    for bodies in (seen["fit_to"], seen["choose"], seen["finish"]):
        assert np.max(bodies.weight) < 1.2 * np.median(bodies.weight)
    assert len(seen["finish"].weight) > len(seen["choose"].weight)
    assert found.refit is not None
    law = found.refit.scalar
    values = [float(law.subs(sympy.Symbol("r"), x)) for x in (0.5, 1.0, 2.0)]
    # Some 1,500 accelerations with 5% of noise.
    assert values == pytest.approx([-0.98, 0.02, 2.02], abs=0.02)


def test_a_law_is_found_term_by_term(spring_trajectory):
    settings = dataclasses.replace(QUICK, form="auto")
    found = discover(jax.random.key(0), spring_trajectory, settings, system=SYSTEMS["spring"])
    r = sympy.Symbol("r")
    assert found.refit is not None and found.refit.scalar is not None
    slope, offset = (float(found.refit.scalar.coeff(r, k)) for k in (1, 0))
    # The law is 2 (r + 0.01 - 1); accelerations are float32.
    assert slope == pytest.approx(2, abs=1e-5) and offset == pytest.approx(-1.98, abs=1e-5)
    assert found.verdict is not None and found.verdict.says == "exact"
    assert found.certificate.says == "believe"
    assert found.one_body is not None and found.one_body.form == "none"


def sets(count=60, size=12, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, size, 2))
    z = np.sum(x[..., 0] ** 2, axis=1)
    return [
        jraph.GraphsTuple(
            nodes=one,
            edges=None,
            senders=np.zeros(0, int),
            receivers=np.zeros(0, int),
            globals={"z": value[None]},
            n_node=np.array([size]),
            n_edge=np.array([0]),
        )
        for one, value in zip(x, z, strict=True)
    ]


def test_a_function_of_sets_goes_the_same_way(tmp_path):
    found = discover(jax.random.key(0), sets(), QUICK, target="z")
    assert found.update is not None and found.law is not None
    assert found.law.elements == "nodes" and found.law.level == "graph"
    error, size = held_out_error(found.law, found.parts[2])
    assert np.isfinite(error) and size > 0
    found.write(tmp_path, system="sets")
    text = (tmp_path / "report.md").read_text()
    assert "The z of the sums e of messages" in text and "12 elements" in text
    assert json.loads((tmp_path / "report.json").read_text())["update"][0]["sympy"]


def test_first_order_motion_goes_the_same_way():
    system = System(
        name="attraction", pair_force=lambda way, receiver, sender: 0.5 * way, order=1, dt=0.05
    )
    run = simulate(jax.random.key(0), system, num_simulations=30, num_outputs=8, solver="midpoint")
    found = discover(jax.random.key(1), run, QUICK, system=system)
    assert found.law is not None and found.law.quantity.name == "velocity"
    # Nothing is divided by a mass that plays no part.
    assert found.law.update[0].free_symbols <= {sympy.Symbol("e_0"), sympy.Symbol("q_i")} | {
        sympy.Symbol(name) for name in ("m_i", "x_i", "y_i")
    }
    assert found.table.true_force is not None
    assert found.verdict is not None


def test_graphs_that_are_all_the_same(spring_dataset):
    same = take(spring_dataset, np.zeros(40, int))
    same = dataclasses.replace(same, group=np.arange(40))
    with pytest.raises(ValueError, match="All 40 graphs have the same bodies"):
        discover(jax.random.key(0), same, QUICK)


def test_whatever_is_given_becomes_a_dataset(spring_trajectory, spring_dataset):
    assert as_dataset(spring_dataset) is spring_dataset
    assert len(as_dataset(spring_trajectory)) == len(spring_dataset)
    assert len(as_dataset(sets(3), "z")) == 3
    assert len(as_dataset(jraph.batch_np(sets(3)), "z")) == 3


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        (3, None, "discover needs a Dataset, a Trajectory or jraph graphs, got int"),
        ("spring", None, "got str"),
        (sets(3), None, "name of what is to be predicted"),
        (sets(3), "y", "Unknown target 'y'"),
        ([], "z", "no graphs to learn from"),
        ([1, 2], "z", "graphs must be a GraphsTuple or a list"),
    ],
)
def test_data_that_cannot_be_used(data, target, message):
    with pytest.raises(ValueError, match=message):
        discover(jax.random.key(0), data, QUICK, target=target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(strategy="kll"), "Did you mean 'kl'"),
        (dict(network="papers"), "Did you mean 'paper'"),
        (dict(node="none"), "Unknown node function"),
        (dict(pair="none"), "Unknown pair function"),
        (dict(loss="squared"), "Unknown loss"),
        (dict(optimizer="sgd"), "Unknown optimizer"),
        (dict(regressor="opern"), "Did you mean 'operon'"),
        (dict(errors="square"), "Unknown kind of errors"),
        (dict(gauge="none"), "Unknown gauge"),
        (dict(form="none"), "Unknown form"),
        (dict(route="dat"), "Did you mean 'data'"),
        (dict(route="data", form="central"), 'form="central" is of messages'),
        (dict(route="data", gauge="messages"), 'gauge="messages" is of messages'),
        (dict(route="data", strategy="flathgn"), "Energies are read from a network"),
        (dict(form="central", gauge="messages"), "Raw messages have no direction"),
        (dict(width=0), "width must be a whole number of at least 1"),
        (dict(depth=1.5), "depth must be a whole number"),
        (dict(steps="many"), "steps must be a whole number"),
        (dict(batch_size=True), "batch_size must be a whole number"),
        (dict(focus=0.5), "focus must be a finite number of at least 1"),
        (dict(focus=float("inf")), "focus must be a finite number"),
        (dict(learning_rate=-1.0), "learning_rate must be a finite number above 0"),
        (dict(learning_rate=float("nan")), "learning_rate must be a finite number"),
        (dict(weight_decay=-1e-3), "weight_decay must be a finite number of at least 0"),
        (dict(penalty=0.1), 'penalty is of "l1" and "kl"'),
        (dict(penalty=-1.0, strategy="l1"), "penalty must be a finite number of at least 0"),
        (dict(penalty=float("inf"), strategy="l1"), "penalty must be a finite number"),
        (dict(strategy="pruning", prune=False), 'the strategy is "standard"'),
        (dict(external_field=True, node="newton"), "has no external_field"),
        (dict(node="newton", strategy="l1"), "use the bottleneck"),
        (dict(pair="antisymmetric", strategy="kl"), "are noisy"),
        (dict(strategy="flathgn", gauge="messages"), "A Hamiltonian has no messages"),
        (dict(operators=("+", "foo")), "Unknown operator of the operon engine 'foo'"),
        (dict(flatten=-1), "flatten must be a whole number of at least 0"),
        (dict(rollouts=-1), "rollouts must be a whole number of at least 0"),
    ],
)
def test_settings_that_are_wrong(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_settings(dataclasses.replace(Settings(), **changes))
    assert "\n" not in str(caught.value)


def test_a_hamiltonian_needs_accelerations():
    with pytest.raises(ValueError, match="A Hamiltonian needs accelerations"):
        discover(
            jax.random.key(0), sets(), dataclasses.replace(QUICK, strategy="flathgn"), target="z"
        )


def test_what_sums_become_is_read_from_messages():
    with pytest.raises(ValueError, match="What a z is a sum of is read from messages"):
        discover(jax.random.key(0), sets(), DATA, target="z")


def test_paper_mode_in_one_word():
    paper = preset("paper", strategy="kl", steps=10)
    assert (paper.network, paper.width, paper.depth) == ("paper", 300, 2)
    assert (paper.loss, paper.optimizer, paper.learning_rate) == ("absolute", "adam", 1e-3)
    assert (paper.focus, paper.prune, paper.weight_decay) == (1.0, False, 1e-8)
    assert (paper.gauge, paper.flatten, paper.errors) == ("messages", 0, "absolute")
    assert paper.penalty == 1.0 and preset("paper", strategy="l1").penalty == 1e-2
    assert preset("paper").penalty is None
    for strategy in ("standard", "bottleneck", "l1", "kl", "pruning", "flathgn"):
        check_settings(preset("paper", strategy=strategy))
    with pytest.raises(ValueError, match="Unknown preset"):
        preset("papers")
    with pytest.raises(ValueError, match="Unknown setting 'widht'. Did you mean 'width'"):
        preset("default", widht=3)


def test_one_long_recording_is_enough():
    time = np.linspace(0, 4, 200)
    phase = np.array([0.0, 1.0, 2.5])
    x = np.stack([np.cos(time[:, None] + phase), np.sin(2 * time[:, None] + phase)], axis=-1)
    data = make_dataset(trajectory_from_arrays(time, x))
    assert np.all(data.group == 0)
    found = discover(jax.random.key(0), data, QUICK)
    assert all("1 recording into" in part.note for part in found.parts)
    assert found.law is not None
