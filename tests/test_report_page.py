"""The report page: what stands on it, that nothing can break out of it, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Input, Layout, Provenance, Series
from edgeae.cli import main
from edgeae.data import Dataset
from edgeae.errors import EdgeaeError, InputError, MissingPackageError
from edgeae.evaluation.denoise import Span
from edgeae.evaluation.pictures import psnr
from edgeae.report import write_report
from edgeae.report.charts import Axis, number
from edgeae.report.facts import principal_components, read_history
from edgeae.report.markup import document, element
from tests import look_report
from tests.browser import Browser, find_chromium
from tests.bundles import Recipe, make_bundle
from tests.look_report import problems, sensors
from tests.test_borders import GOLDEN, THIRD_PARTY_OF_TRAIN, blocked, run

SHAPES: dict[Layout, tuple[int, ...]] = {
    "vector": (12,),
    "HW": (9, 7),
    "CHW": (3, 9, 7),
    "HWC": (9, 7, 3),
    "TC": (20, 2),
}
HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "</style></title><img src=https://example.org/x>",
    "&lt;b&gt; & <!-- ",
    "nul \x00 esc \x1b half \ud800 bidi \u202e",
    "x" * 10_000,
)
TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main header footer section p h1 h2 h3 dl dt dd div ul li i bdi span br "
        "figure figcaption img svg path line text circle rect",
    )
)
PROVENANCE = Provenance("rows.npy", "ab" * 32, 90, 3, "mse", 7)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._quiet = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._quiet = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text += data.replace("\xa0", " ")

    def values(self, tag: str, name: str) -> list[str]:
        return [value for one, other, value in self.attributes if (one, other) == (tag, name)]


def assert_self_contained(page: Page) -> None:
    """Nothing is loaded from outside, no script or style attribute is there, and the policy allows this style only."""
    assert set(page.tags) <= TAGS
    assert {name for _, name, _ in page.attributes}.isdisjoint({"style", "href", "onload", "onerror", "xlink:href"})
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    style = page.source.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [value for value in page.values("meta", "content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; ") and f"style-src 'sha256-{digest}';" in policy
    assert "url(" not in style and "@import" not in style


def assert_described(page: Page) -> None:
    """Every chart and every picture has a text in its place; marks without one are hidden."""
    assert all(page.values("img", "alt"))
    charts = page.values("svg", "aria-label")
    assert charts and all(re.search(r"\d", text) for text in charts)
    assert page.values("svg", "role") == ["img"] * len(charts)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_page_for_every_layout(tmp_path: Path, layout: Layout, count: int) -> None:
    network = make_bundle(tmp_path / "b", shape=SHAPES[layout], layout=layout)
    rows = network.rows(count)
    facts = write_report(tmp_path / "b", rows, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert_self_contained(page)
    assert_described(page)
    np.testing.assert_allclose(facts.scores, network.score(rows), rtol=1e-4)
    assert facts.mse == pytest.approx(np.mean(np.square((rows - network.reconstruct(rows)) / 2)), rel=1e-3)
    assert f"Of {count} rows of array" in page.text
    shown = min(6, max(1, count // 3)) * min(3, count)
    assert page.tags.count("img") == (3 * shown if layout in ("HW", "CHW", "HWC") else 0)
    assert ("What makes the worst rows" in page.text) is (layout in ("vector", "TC"))
    assert "ROC" not in page.text and "Training" not in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    manifest = {"name": HOSTILE[2], "description": HOSTILE[1], "producer": {HOSTILE[0]: "1"}}
    names = HOSTILE[:4] + tuple(f"{name} {HOSTILE[0]}" for name in "abc")
    network = make_bundle(tmp_path / "b", shape=(len(names),), names=names, manifest=manifest)
    data = Dataset(network.rows(30), None, "vector", names, source=HOSTILE[0])
    write_report(tmp_path / "b", data, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert_self_contained(page)
    assert "script" not in page.tags
    for text in (*HOSTILE[:2], HOSTILE[2][:39], HOSTILE[3]):
        assert text.strip() in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_can_stand_on_a_page(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.html").write_bytes(document(text, element("p", text, title=text), element("p", "after")))
    page = Page(tmp_path / "p.html")
    assert page.tags.count("p") == 2 and "img" not in page.tags
    assert [name for tag, name, _ in page.attributes if tag == "p"] == ["title"]
    assert page.text.endswith("after\n")
    assert not re.search("[\x00\x1b\u202e]", page.source)


@given(st.text())
def test_what_is_written_is_what_is_read(text: str) -> None:
    class Text(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += data

    source = document("t", element("p", text)).decode().split("<p>")[1].split("</p>")[0]
    reader = Text()
    reader.feed(source)
    reader.close()
    assert len(reader.found) == len(text) and ("<" in source) is False


def test_curves_and_verdict_are_those_of_the_labels(tmp_path: Path) -> None:
    data = sensors()
    facts = write_report(GOLDEN / "table", data, tmp_path / "r.html")
    curves, labels = facts.curves, data.y
    assert curves is not None and labels is not None
    normal, broken = facts.scores[labels == 0], facts.scores[labels == 1]
    chance = np.mean(broken[:, None] > normal[None]) + 0.5 * np.mean(broken[:, None] == normal[None])
    assert curves.auroc == pytest.approx(chance, abs=1e-6)
    order = labels[np.argsort(-facts.scores, kind="stable")]
    precision = np.cumsum(order) / np.arange(1, len(order) + 1)
    assert curves.average_precision == pytest.approx(precision[order == 1].mean(), abs=1e-3)
    assert curves.found == np.mean(facts.anomalies[labels == 1]) > 0.2
    assert curves.false_alarms == np.mean(facts.anomalies[labels == 0]) < 0.1
    assert curves.roc[0].tolist() == [0, 0] and curves.roc[-1].tolist() == [1, 1]
    text = Page(tmp_path / "r.html").text
    for words in ("ROC", f"AUROC{curves.auroc:.3f}", f"finds {100 * curves.found:.3g} % of the labelled anomalies"):
        assert words in text


@pytest.mark.parametrize("labels", [[0] * 30, [1] * 30, [0, 1] * 15, list(range(10)) * 3, list(range(15)) * 2])
def test_any_labels(tmp_path: Path, labels: list[int]) -> None:
    network = make_bundle(tmp_path / "b")
    data = Dataset(network.rows(30), np.array(labels), "vector")
    facts = write_report(tmp_path / "b", data, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert (facts.curves is not None) is ("ROC" in page.text) is (sorted(set(labels)) == [0, 1])
    key = page.text.split("Latent map")[1].split("component")[0]
    classes = len(set(labels))
    assert key.startswith("0123456789" if classes == 10 else ("normal", "anomaly", "up to", "above")), key


def test_the_same_rows_give_the_same_page_and_more_are_sampled(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b")
    rows = network.rows(500)
    np.save(tmp_path / "rows.npy", rows)
    for name in ("one", "other"):
        facts = write_report(tmp_path / "b", tmp_path / "rows.npy", tmp_path / f"{name}.html", rows=100)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    assert "Of 100 rows, drawn at random from 500 (the same ones every time), of rows.npy" in Page(
        tmp_path / "one.html"
    ).text.replace("\xa0", " ")
    assert len(np.unique(facts.rows)) == 100 and facts.rows.max() > 300
    np.testing.assert_allclose(facts.scores, network.score(rows[facts.rows]), rtol=1e-4)


def test_rows_that_cannot_be_scored(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b")
    rows = network.rows(40)
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match=r"\[3, 2\]"):
        write_report(tmp_path / "b", rows, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    facts = write_report(tmp_path / "b", rows, tmp_path / "r.html", on_invalid="flag")
    assert np.isnan(facts.scores[3]) and facts.anomalies[3] and np.isfinite(facts.latents).all()
    text = Page(tmp_path / "r.html").text
    assert "1 of them have no finite score" in text and "nan" not in text.lower().replace("anomaly", "")
    with pytest.raises(InputError, match="none of the 2 rows"):
        write_report(tmp_path / "b", rows[[3, 3]], tmp_path / "r.html", on_invalid="flag", force=True)


@pytest.mark.parametrize("latent", [1, 2, 20])
def test_any_latent_and_constant_scores(tmp_path: Path, latent: int) -> None:
    network = make_bundle(tmp_path / "b", latent_dim=latent)
    write_report(tmp_path / "b", np.repeat(network.rows(1), 9, axis=0), tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert_described(page)
    assert "nan" not in "".join(page.values("path", "d") + page.values("rect", "height"))


def test_large_noisy_pictures_stay_small(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", shape=(3, 130, 140), latent_dim=1, layout="CHW", dtype="uint8", shift=0.0, scale=255.0)
    rows = np.random.default_rng(0).integers(0, 256, (18, 3, 130, 140), dtype=np.uint8)
    write_report(tmp_path / "b", rows, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 2 * 2**20
    assert set(Page(tmp_path / "r.html").values("img", "width")) == {"128"}


def test_many_features_and_channels(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", shape=(500,))
    write_report(tmp_path / "b", network.rows(30), tmp_path / "v.html")
    assert "feature, 0 to 499" in Page(tmp_path / "v.html").text
    network = make_bundle(tmp_path / "c", shape=(16, 9), layout="TC")
    write_report(tmp_path / "c", network.rows(30), tmp_path / "w.html")
    assert Page(tmp_path / "w.html").text.count(", of 9 channels, normalised values") == 12


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_gallery_of_what_the_model_makes(tmp_path: Path, layout: Layout, count: int) -> None:
    recipe = Recipe(
        SHAPES[layout],
        layout,
        generative=True,
        manifest={"variant": "denoising"},
        metadata={"edgeae.variant": "denoising"},
    )
    network = make_bundle(tmp_path / "b", recipe)
    rows = network.rows(count)
    write_report(tmp_path / "b", rows, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert_self_contained(page)
    assert_described(page)
    assert ("From one end of the first component" in page.text) is (count > 1)
    is_image = layout in ("HW", "CHW", "HWC")
    alts = page.values("img", "alt")
    between = sum(alt.endswith("of the way") for alt in alts)
    assert sum(alt.startswith("generated") for alt in alts) == (12 if is_image else 0)
    assert between == (0 if not is_image or count == 1 else 4 if count == 2 else 8)
    assert sum(alt.endswith("noisy") for alt in alts) == (3 * min(6, count) if is_image else 0)
    assert page.text.count("Noise was added to") == page.text.count("Drawn at random") == 1
    figures = re.findall(r"rows: (\S+) dB with the noise, (\S+) dB restored", page.text)
    assert len(figures) == 3
    # of the network's arithmetic, where the noise is the one that the report draws
    span = Span.of(rows, Bundle.read(tmp_path / "b").manifest)
    ranking = np.argsort(network.score(rows))
    shown = min(6 if is_image else 1, count)
    first = (count - shown) // 2
    clean = rows[np.sort(ranking[first : first + shown])]
    noisy = span.noisy(clean, "gaussian", 0.25, 0)
    wanted = [psnr(span.units(each), span.units(clean)) for each in (noisy, network.reconstruct(noisy))]
    for found, value in zip(figures[0], wanted, strict=True):
        assert found == "-" if value is None else float(found) == pytest.approx(value, rel=0.01)


def test_only_what_a_model_is_for_is_in_its_gallery(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b")
    write_report(tmp_path / "b", network.rows(20), tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert "Drawn at random" not in page.text and "Noise was added" not in page.text


def test_a_window_shows_when_and_where_its_score_comes_from(tmp_path: Path) -> None:
    series = Series(channel_names=("heat", "flow"))
    names = {"input": Input((300, 2), "float32", "TC", series=series)}
    network = make_bundle(tmp_path / "b", Recipe((300, 2), "TC", manifest=names))
    rows = network.rows(9)
    rows[4, 123, 1] += 90
    write_report(tmp_path / "b", rows, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert_described(page)
    worst, *others = [text for text in page.values("svg", "aria-label") if text.startswith("Most at")]
    assert worst.startswith("Most at flow @ 123 (") and len(others) == 5
    # the strongest shade of the worst row's map is where the error is; four steps make a column
    heat_map = page.source[page.source.index(f'aria-label="{worst[:16]}') :]
    (strongest,) = re.findall(r'fill-opacity="1" d="([^"]+)"', heat_map[: heat_map.index("</figure>")])
    assert strongest == "M120 1h4v1h-4z"


def write_run(folder: Path, provenance: Provenance = PROVENANCE, history: str | None = None) -> Path:
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"format": "edgeae-run", "provenance": asdict(provenance)}))
    if history is None:
        history = "epoch,train_loss,validation_loss,seconds\n1,0.5,0.4,1\n2,0.3,0.2,1\n3,0.2,0.25,1\n"
    (folder / "history.csv").write_text(history)
    return folder


def test_training_curves_come_from_the_run(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", manifest={"training": PROVENANCE})
    write_report(tmp_path / "b", network.rows(30), tmp_path / "r.html", run=write_run(tmp_path / "run"))
    text = Page(tmp_path / "r.html").text
    assert "went from 0.4 to 0.25 in 3 epochs; it was lowest, 0.2, after epoch 2" in text
    assert text.count("Training") == 1


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("", "history.csv"),
        ("epoch,train_loss\n1,2\n", "validation_loss"),
        ("epoch,train_loss,validation_loss\n1,2\n", "expected numbers"),
        ("epoch,train_loss,validation_loss\n1,two,3\n", "expected numbers"),
        ("epoch,train_loss,validation_loss\n", "no epochs"),
    ],
)
def test_a_damaged_history_is_named(tmp_path: Path, history: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_history(write_run(tmp_path / "run", history=history), PROVENANCE)


def test_another_run_and_none_are_refused(tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", Provenance("rows.npy", "cd" * 32, 90, 3, "mse", 7))
    with pytest.raises(InputError, match="not the run"):
        read_history(other, PROVENANCE)
    assert len(read_history(other, None).epochs) == 3
    with pytest.raises(InputError, match="--run"):
        read_history(tmp_path / "nowhere", None)
    (other / "model.json").write_text("[]")
    with pytest.raises(InputError, match="provenance"):
        read_history(other, PROVENANCE)
    (other / "history.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="readable"):
        read_history(other, None)


def test_wrong_reports_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b")
    rows = network.rows(5)
    for out, message in (("r.txt", r"\.html"), ("no/r.html", "does not exist")):
        with pytest.raises(InputError, match=message):
            write_report(tmp_path / "b", rows, tmp_path / out)
    with pytest.raises(InputError, match="rows"):
        write_report(tmp_path / "b", rows, tmp_path / "r.html", rows=0)
    with pytest.raises(EdgeaeError):
        write_report(tmp_path / "nothing", rows, tmp_path / "r.html")
    (tmp_path / "old.html").write_text("old")
    with pytest.raises(InputError, match="exists"):
        write_report(tmp_path / "b", rows, tmp_path / "old.html")
    assert {path.name for path in tmp_path.iterdir()} == {"b", "old.html"}


@pytest.mark.parametrize(("module", "package"), [("PIL", "Pillow"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else found(name, *rest))
    network = make_bundle(tmp_path / "b", shape=(4, 4), layout="HW")
    data = Dataset(network.rows(8), np.array([0, 1] * 4), "HW")
    with pytest.raises(MissingPackageError, match=f"pip install {package}"):
        write_report(tmp_path / "b", data, tmp_path / "r.html")


def test_a_report_of_a_table_needs_nothing_of_the_train_extra(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "rows.csv", sensors().x, delimiter=",", comments="", header=",".join(SENSORS))
    code = blocked(*THIRD_PARTY_OF_TRAIN) + "from edgeae.cli import main; main(sys.argv[1:])"
    run(code, "report", str(GOLDEN / "table"), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "r.html"))
    assert_self_contained(Page(tmp_path / "r.html"))


SENSORS = tuple(f"sensor_{index}" for index in range(10))


def test_the_command(tmp_path: Path) -> None:
    data = sensors()
    assert data.y is not None
    table = np.column_stack([data.x, data.y])
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", comments="", header=",".join((*SENSORS, "broken")), fmt="%.7g")
    arguments = ["report", str(GOLDEN / "table"), str(tmp_path / "t.csv"), "-o", str(tmp_path / "r.html")]
    done = CliRunner().invoke(main, [*arguments, "--label-column", "broken", "--rows", "200", "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    page = Page(tmp_path / "r.html")
    assert "Of 200 rows, drawn at random from 600" in page.text and "AUROC" in page.text and "fp16" in page.text
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1 and "--force" in again.output


def test_principal_components_are_those_of_the_covariance() -> None:
    latents = np.random.default_rng(0).normal(size=(200, 5)) * [5, 3, 1, 1, 0.1] + 7
    points, shares = principal_components(latents.astype(np.float32))
    variances = np.sort(np.linalg.eigvalsh(np.cov(latents.T)))[::-1]
    np.testing.assert_allclose(points.var(axis=0, ddof=1), variances[:2], rtol=1e-4)
    np.testing.assert_allclose(shares, variances[:2] / variances.sum(), rtol=1e-4)
    assert abs(np.corrcoef(points.T)[0, 1]) < 1e-6


@given(st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=1), st.booleans())
def test_axes_hold_their_values_and_ticks(values: list[float], shift: bool) -> None:
    array = np.array(values) + (2e12 if shift else 0)
    axis = Axis.around(array)
    assert axis.low < axis.high
    assert array.max() <= axis.high and (axis.low <= array.min() or axis.low <= 1e-9 * array.max())
    places = axis.place(array)
    assert ((places >= 0) & (places <= 1)).all() and places[array.argmax()] == places.max() > 0
    ticks = axis.ticks()
    assert 1 <= len(set(ticks)) == len(ticks) <= 7
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234.5, "1,234"), (0.012345, "0.0123"), (-3e-7, "-3e-7"), (2.5e12, "2.5e12")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium or Chrome is installed")
    with Browser(chromium) as started:
        yield started


def test_looking_at_reports_finds_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium or Chrome is installed")
    status = look_report.main(["-o", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0 and all(line.endswith(": ok") for line in lines), lines
    assert len(lines) == 4 * len(look_report.VIEWS)
    for report in ("table", "digits", "windows", "denoising"):  # dark is dark, a phone is narrow
        assert len({(tmp_path / f"{report}-{view}.png").read_bytes() for view in look_report.VIEWS}) == 4
    assert (tmp_path / "split.png").stat().st_size < 200 * 1024


def test_a_browser_finds_hostile_names_harmless(browser: Browser, tmp_path: Path) -> None:
    names = tuple(f"{index}{name}" for index, name in enumerate((*HOSTILE[:4], "y" * 300)))
    network = make_bundle(tmp_path / "b", shape=(5,), names=names, manifest={"name": HOSTILE[5]})
    write_report(tmp_path / "b", network.rows(30), tmp_path / "r.html")
    assert problems(browser.look(tmp_path / "r.html", width=360), 360) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<img src='http://localhost:9/x.png'>", "asks for http://localhost:9/x.png"),
        ("<script>console.error('broken')</script>", "broken"),
        ("<div style='width: 500px'>wide</div>", "508 pixels wide"),
        ("<p style='font-size: 6px'>small</p>", "text of 6.0 pixels"),
    ],
)
def test_the_look_sees_what_is_wrong(browser: Browser, tmp_path: Path, body: str, complaint: str) -> None:
    page = f"<!DOCTYPE html><html><head><meta name=viewport content='width=device-width'></head><body>{body}</body>"
    (tmp_path / "bad.html").write_text(page)
    assert complaint in " ".join(problems(browser.look(tmp_path / "bad.html", width=360), 360))
