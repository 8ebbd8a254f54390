"""The report says what the detection holds, stands alone, and lets nothing from the table out of its place."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from gapcell.detect import charts, report, report_entities
from gapcell.detect.events import read_table
from gapcell.detect.metrics import precision_a_day
from gapcell.detect.odds_chart import odds_that_held
from gapcell.detect.report_entities import AFTER, BEFORE, DETAILED, PAGES
from gapcell.detect.results import Candidate, Comparison, Detection, Epoch, Feature, Metrics, Split, Summary

HOSTILE = "<script>alert('entity')</script>\"><img src=x onerror=alert(1)>\x07{{ 7 * 7 }}\u202e"


def events(entity: str = "anna", amount: str = "amount", place: str = "place") -> pl.DataFrame:
    """Forty days of one entity with a hole of ten, and five events of another."""
    days = [*range(20), *range(30, 40)]
    first = pl.DataFrame(
        {
            "who": entity,
            "when": [f"2024-03-{1 + day:02d}" if day < 31 else f"2024-04-{day - 30:02d}" for day in days],
            amount: [None if day in {5, 6, 7, 12} else 1286.01 if day == 38 else 10.0 + day % 3 for day in days],
            place: ["shop" if day % 4 else "<b>online</b>" for day in days],
        }
    )
    second = first.head(5).with_columns(who=pl.lit("bert"))
    return pl.concat([first, second])


def detection(frame: pl.DataFrame | None = None, *, top: int = 2, label: bool = False, **changes: object) -> Detection:
    """A detection made by hand: the largest amounts are the alerts; nothing here was learnt."""
    frame = events() if frame is None else frame
    amount, place = frame.columns[2:4]
    if label:
        frame = frame.with_columns(wrong=pl.col(amount) > 1000)
    table = read_table(
        frame, entity=frame.columns[0], time=frame.columns[1], values=[amount, place], label="wrong" if label else None
    )
    rows = len(table.codes)
    size = frame[amount].fill_null(0).to_numpy()
    score = size / 100
    alert = np.zeros(rows, bool)
    alert[np.argsort(-score, kind="stable")[:top]] = True
    split = Split(*np.quantile(table.seconds, [0.5, 0.6, 0.7]).tolist())
    position = np.empty(rows, np.int64)
    position[table.order] = np.arange(rows) - np.repeat(table.starts[:-1], np.diff(table.starts))
    nothing = pl.Series([None] * rows, dtype=pl.Float64)
    scored = pl.DataFrame(
        {
            "entity": table.entity,
            "time": table.time,
            "score": score,
            "alert": alert,
            "part": split.parts(table.seconds).tolist(),
            "history": position,
            "feature": amount,
            "reason": ["" if value is None else f"{amount} is {value}, far above" for value in frame[amount]],
        }
    ).with_columns(
        **{f"score_{side}_{amount}": pl.Series(score) for side in ("own", "population")},
        **{
            f"score_{side}_{place}": pl.Series(np.full(rows, part))
            for side, part in (("own", 0.1), ("population", 0.2))
        },
        **{f"score_{side}_time_since_last": nothing for side in ("own", "population")},
    )
    best = scored.with_row_index("row").cast({"row": pl.Int64}).filter("alert").sort("score", descending=True)
    entities = [int(table.codes[row]) for row in best["row"]]
    drawn = np.concatenate([np.flatnonzero(np.isin(table.codes, entities)), np.empty(0, np.int64)]).astype(np.int64)
    made = Detection(
        frame=scored,
        table=table,
        features=(
            Feature(amount, "numeric", "upper", "mixture", "student-t"),
            Feature(place, "categorical", "two-sided", "categorical", "categorical"),
            Feature("time_since_last", "gap", "two-sided", "mixture", "mixture"),
        ),
        threshold=0.5,
        budget=0.001,
        split=split,
        epochs=tuple(Epoch(number, 2 / number, 2.1 / number) for number in range(1, 6)),
        lengths=Summary.of(np.diff(table.starts).astype(np.float64)),
        gaps=Summary.of(table.since_last()),
        no_history=int(np.isnan(table.since_last()).sum()),
        unscored=0,
        top=best.select("row", "entity", "time", "score", "alert", "part", "history", "feature", "reason"),
        bands=pl.DataFrame({"row": drawn, f"low_{amount}": np.full(len(drawn), 8.0), f"high_{amount}": 14.0}),
        common=pl.DataFrame({f"likeliest_{place}": "'shop'", f"probability_{place}": 0.75}),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def html() -> str:
    """The report of two alerts on one entity."""
    return report.render(detection())


class Page(HTMLParser):
    """What a browser would make of the page: its tags, their attributes and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.said))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] != "style":
            self.said.append(data)


def svgs(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)]  # noqa: S314  # our own


def test_a_reader_in_a_hurry_learns_first_what_to_look_at(html: str) -> None:
    page = Page(html)
    start = page.text[:900]
    assert "1 of 11 events deserves a look" in start  # the other alert lies before the test part
    assert "anna" in start
    assert "amount is 1286.01, far above" in page.text
    assert page.text.index("Look at these first") < page.text.index("Scores and threshold")


def test_every_alert_is_drawn_in_its_history_with_its_values() -> None:
    steps: list[tuple[str, int, int]] = []
    html = report.render(detection(top=3), progress=lambda *step: steps.append(step))
    assert steps == [("report", done, 1) for done in range(2)]
    assert html.count('<div class="alert"') == 3
    assert html.count('<section class="card long entity"') == 1
    page = Page(html)
    assert "1,286.01" in page.text
    assert "up to 14 (own history)" in page.text
    assert "'shop', 75 % (all events)" in page.text
    assert (
        "30 events, 1 March 2024 to 9 April 2024. 4 values missing; longest time without an event 11 days." in page.text
    )
    # three features, scores, lengths, waits, missing values, training
    assert html.count('class="wide"') == html.count('class="narrow"') == 3 + 5


def test_a_hostile_table_stays_text() -> None:
    html = report.render(detection(events(HOSTILE, amount=f"a{HOSTILE}", place=f"p{HOSTILE}"), label=False))
    page = Page(html)
    assert not {"script", "img", "b", "iframe", "object"} & set(page.tags) - {"b"}
    assert page.tags.count("b") == 4  # the four tiles
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "alert('entity')" in page.text  # shown, as text
    assert "{{ 7 * 7 }}" in page.text  # not computed
    assert "\x07" not in html
    assert "\u202e" not in html
    inside = [text for svg in svgs(html) for text in svg.itertext()]
    assert any(text.startswith("a<script>alert") for text in inside)  # escaped in the SVG, or it would not parse so
    assert {element.tag.split("}")[1] for svg in svgs(html) for element in svg.iter()} <= {
        "svg", "g", "path", "line", "rect", "text", "defs", "clipPath", "tspan",
    }  # fmt: skip


def decided_by_place(found: Detection) -> Detection:
    place = pl.lit("place").alias("feature")
    return dataclasses.replace(found, frame=found.frame.with_columns(place), top=found.top.with_columns(place))


def test_hostile_categories_are_text_on_an_axis() -> None:
    html = report.render(decided_by_place(detection()))
    assert "<b>online" not in html
    assert any("<b>online</b>" in text for svg in svgs(html) for text in svg.itertext())


def test_a_history_of_many_categories_stays_readable() -> None:
    many = events().with_columns(place=pl.format("shop {}", pl.int_range(35) % 19))
    found = detection(many, top=1)
    html = report.render(decided_by_place(found))
    decided_first = svgs(html)[0]
    names = [text for text in decided_first.itertext() if text.startswith(("shop", "("))]
    assert len(names) <= 9
    assert "(others)" in names
    row = found.top["row"][0]
    assert many["place"][row] in names


def test_the_page_stands_alone() -> None:
    html = report.render(detection(label=True, metrics=Metrics(9, 1, 1.0, 1.0, 1.0, 1, 1 / 9)))
    page = Page(html)
    links = [value for name, value in page.attributes if name in {"href", "src", "xlink:href", "action", "srcset"}]
    assert links
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= {value for name, value in page.attributes if name == "id"}
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "default-src 'none'" in html
    assert not re.search(r"url\((?!#)|@import", html)
    addresses = set(re.findall(r"https?://[^\"' ]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_same_detection_gives_the_same_page(html: str) -> None:
    assert report.render(detection()) == html
    assert not [name for svg in svgs(html) for element in svg.iter() for name in element.attrib if name == "id"]


def test_charts_take_their_colours_from_the_page_so_that_they_read_in_the_dark(html: str) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    assert "prefers-color-scheme: dark" in style
    used = {
        match
        for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
        for match in re.findall(r"var\(--(\w+)", svg)
    }
    assert {"blue", "red", "muted"} <= used
    for block in (style, style[style.index("prefers-color-scheme: dark") :], style[style.index("@media print") :]):
        assert used <= set(re.findall(r"--(\w+):", block))
    painted = {value for name, value in Page(html).attributes if name in {"fill", "stroke"}}
    assert {value for value in painted if not value.startswith("var(")} <= {"none", "transparent"}


def test_labels_and_comparison_appear_where_there_are_some(html: str) -> None:
    bare = Page(html).text
    assert "How good is it?" not in bare
    frame = pl.DataFrame(
        {
            "method": ["gapcell"] * 2 + ["isolation forest"] * 2,
            "kind": ["amount", "all"] * 2,
            "average_precision": [0.61, 0.45, 0.7, 0.2],
            "base_rate": [0.002, 0.003] * 2,
            "injected": [50, 90] * 2,
        }
    )
    comparison = Comparison(frame, ("50 amounts were multiplied by 10.",))
    metrics = Metrics(20, 4, 0.25, 0.75, 0.5, 2, 0.2)
    html = report.render(detection(label=True, metrics=metrics, comparison=comparison))
    page = Page(html)
    assert "4 of 20 labelled events are true" in page.text
    assert "Of the 2 highest scores with a known label, 1 is true; picked at random it would be 0.4." in page.text
    assert "50 amounts were multiplied by 10." in page.text
    rows = re.findall(r"<tr><td>(gapcell|isolation forest|random)</td>(.*?)</tr>", html)
    cells = {method: re.findall(r'class="number( best)?">([\d.]+)<', row) for method, row in rows}
    assert cells == {
        "gapcell": [("", "0.610"), (" best", "0.450")],
        "isolation forest": [(" best", "0.700"), ("", "0.200")],
        "random": [("", "0.002"), ("", "0.003")],
    }
    drawn = [" ".join(svg.itertext()) for svg in svgs(html)]
    assert any("gapcell" in text and "0.450" in text for text in drawn)


def many(entities: int, each: int = 2, *, top: int = 0, seed: int = 0) -> Detection:
    """A detection of many entities with parts drawn as a perfect model has them, but for the amounts of all events."""
    draws, rows = np.random.default_rng(seed), entities * each
    frame = pl.DataFrame(
        {
            "who": [f"entity {row // each:03d}" for row in range(rows)],
            "when": [float(86_400 * (row % 40) + row) for row in range(rows)],
            "amount": draws.lognormal(3, 1, rows),
            "place": ["shop", "web"] * (rows // 2),
        }
    )
    found = detection(frame, top=top)
    right, wrong = draws.exponential(1, rows), draws.exponential(3, rows)
    parts = {"score_own_amount": right, "score_population_amount": wrong}
    return dataclasses.replace(found, frame=found.frame.with_columns(pl.Series(*part) for part in parts.items()))


def cells(html: str, *starts: str) -> list[list[str]]:
    """The texts of the cells of each row whose first cells have these texts."""
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in re.findall(r"<tr.*?</tr>", html)]
    return [row[len(starts) :] for row in rows if tuple(row[: len(starts)]) == starts]


def test_each_flagged_entity_has_a_page_with_links_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_entities, "DRAWN", 0)  # charts take time, and are not what this is about
    found = many(30, top=20)
    html = report.render(found)
    flagged = list(dict.fromkeys(found.top["entity"]))
    assert len(flagged) > PAGES
    assert html.count('<section class="card long entity"') == html.count('href="#first"') == PAGES
    sections = re.findall(r'<section class="card long entity" id="entity-(\d+)">.*?<bdi>(.*?)</bdi>', html, re.DOTALL)
    assert sections == [(str(number), name) for number, name in enumerate(flagged[:PAGES], 1)]
    links = re.findall(r'href="#alert-(\d+)"', html)
    assert links == [str(rank) for rank, name in enumerate(found.top["entity"], 1) if name in flagged[:PAGES]]
    assert all(f'id="alert-{rank}"' in html for rank in links)
    assert "the first 10 of them" in Page(html).text


def test_an_entity_with_many_alerts_has_a_line_for_most_of_them() -> None:
    html = report.render(detection(top=8))
    assert html.count('<div class="alert"') == DETAILED
    assert html.count('<li id="alert-') == 8 - DETAILED


def test_the_report_of_many_long_histories_is_no_burden() -> None:
    """All charts of the entities, were all of them as large as that of as many events as a chart shows."""
    found = many(2, 200, top=1)
    history = found.history(found.top["row"][0])
    past = report_entities.past_of(found, history, history["row"][BEFORE], found.features[0])
    past = dataclasses.replace(past, expected=[(1.0, 2.0)] * len(past.times))
    assert len(past.times) == BEFORE + AFTER + 1
    assert len(charts.draw(charts.history(past), "")) * PAGES * report_entities.DRAWN < 2.5e6


@pytest.mark.parametrize(
    "drawing",
    [
        charts.score_distribution(np.arange(9.0), np.arange(9.0), 5.0),
        charts.bars([charts.Bar("a", 1.0, "1", chance=0.5)]),
        charts.training_curve([1, 2], [2.0, 1.0], [2.0, 1.5]),
        odds_that_held({"own": [(1.0, 1.0), (0.1, 0.2)], "population": [(1.0, 1.0)]}, 0.1),
        *(
            charts.history(charts.Past("x", kind, False, [0, 9], values, [None] * 2, [None] * 2, [False] * 2, 0, "1"))
            for kind, values in (("numeric", [1.0, 2.0]), ("duration", [None, 9.0]), ("category", ["a", "b"]))
        ),
    ],
)  # fmt: skip
def test_charts_are_what_vega_lite_expects(drawing: charts.Drawing) -> None:
    """The page is drawn without this check, which takes longer than the drawing."""
    for width in (charts.WIDE, charts.NARROW):
        drawing.build(width).properties(width=width).to_dict(validate=True)


def test_odds_are_held_against_what_came() -> None:
    html = report.render(many(600, 20))
    (right,) = cells(html, "amount", "own history")
    (wrong,) = cells(html, "amount", "all events")
    assert [re.match(r"1 in [\d.,]+", text) is not None for text in (*right[:3], *wrong[:3])] == [True] * 6
    bold = re.findall(r"<tr><td>amount</td><td>(own history|all events)</td>(.*?)</tr>", html)
    assert [(whose, row.count("best")) for whose, row in bold] == [("own history", 0), ("all events", 3)]
    assert "In the test part, which nothing was learnt from." in Page(html).text
    drawn = [" ".join(svg.itertext()) for svg in svgs(html)]
    assert sum("said: 1 in" in text for text in drawn) == 2  # the times have no scores here


def test_distances_are_shown_where_they_are_known() -> None:
    far = pl.DataFrame({"feature": [0, 1, 2], "events": 9, "own": [0.123, None, None], "population": [0.5, 0.0, None]})
    html = report.render(dataclasses.replace(many(40), distances=far))
    assert [row[-1] for row in cells(html, "amount", "own history")] == [".12"]
    assert [row[-1] for row in cells(html, "place", "own history")] == ["—"]
    assert [row[-1] for row in cells(html, "place", "all events")] == [".00"]


def test_what_was_not_scored_is_counted_with_its_reason() -> None:
    found = detection()
    amount = pl.Series(found.table.values["amount"].is_null())
    hidden = [
        pl.when(~amount).then(f"score_{judge}_amount").alias(f"score_{judge}_amount") for judge in ("own", "population")
    ]
    html = report.render(dataclasses.replace(found, frame=found.frame.with_columns(hidden), unscored=1))
    assert cells(html, "amount", "amount is missing") == [["4"]]
    since = "time since the last event"
    assert cells(html, since, "no earlier event to measure the time from") == [["2"]]
    assert cells(html, since, "it is not to be scored") == [["33"]]  # made so in this detection
    assert cells(html, "the whole event") == [["none of its features has a score", "1"]]
    (lacking,) = [row for row in cells(html, "amount") if "meter" in row[0] and len(row) == 3 and "%" in row[1]]
    assert lacking[1:] == ["50 %", "none"]


def test_the_features_say_how_often_they_decide() -> None:
    found = many(30)
    alerting = found.frame.with_columns(alert=pl.int_range(pl.len()) % 7 == 0)
    html = report.render(dataclasses.replace(found, frame=alerting))
    row = cells(html, "amount")[0]
    assert row[0].endswith(" all")
    assert row[1] == "all"
    assert int(row[2]) == alerting.filter(part="test")["alert"].sum() > 0


def test_the_encoders_that_were_tried_are_shown() -> None:
    tried = (
        Candidate("customer", "lstm", 1.25, chosen=False), Candidate("customer", "convlstm", 1.125, chosen=True),
        Candidate("terminal", "none", 2.0, chosen=True),
    )  # fmt: skip
    html = report.render(detection(candidates=tried))
    assert cells(html, "customer", "lstm") == [["1.250", ""]]
    assert cells(html, "customer", "convlstm") == [["1.125", "chosen"]]
    assert cells(html, "terminal", "none") == [["2.000", "chosen"]]
    assert "was chosen by the likelihood" not in report.render(detection())


def test_precision_a_day_is_shown_where_there_are_labels() -> None:
    found = many(300)
    truth = pl.Series("wrong", found.table.values["amount"] > 30)
    table = dataclasses.replace(
        found.table, label=truth, reading=dataclasses.replace(found.table.reading, label="wrong")
    )
    html = report.render(dataclasses.replace(found, table=table, metrics=Metrics(9, 1, 0.5, 0.5, 0.5, 1, 0.1)))
    test = (found.frame["part"] == "test").to_numpy()
    wanted = precision_a_day(found.frame["score"].filter(test), truth.filter(test), table.seconds[test], 2)
    (row,) = cells(html, "2")
    assert row[:3] == [f"{wanted.precision:.3f}", f"{wanted.chance:.3f}", f"{wanted.found} of {wanted.positives}"]
    assert "at random" not in report.render(found)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(detection(top=0), id="no alerts"),
        pytest.param(detection(events().head(1), top=0), id="one event"),
        pytest.param(detection(events().head(1), top=1), id="one event that alerts"),
        pytest.param(detection(epochs=()), id="no training curve"),
        pytest.param(detection(label=True, metrics=Metrics(9, 0, math.nan, math.nan, 0.0, 1, 0.0)), id="no true label"),
        pytest.param(detection(events(amount="score", place="time")), id="features named like columns of a history"),
        pytest.param(detection(events().with_columns(when=pl.int_range(35) * 40_000.0)), id="no calendar"),
        pytest.param(detection(events().with_columns(when=pl.lit("2024-03-01"))), id="all at one time"),
        pytest.param(detection(events().with_columns(amount=-pl.col("amount"))), id="negative amounts"),
        pytest.param(detection(events().with_columns(amount=pl.col("amount") * 1e300)), id="huge amounts"),
    ],
)
def test_unusual_detections_have_a_report_too(found: Detection) -> None:
    html = report.render(found)
    page = Page(html)
    assert page.text.count("How to read a score") == 2
    assert not re.search(r"\b(nan|NaN|None|null|undefined|Infinity)\b", page.text)
    assert len(svgs(html)) >= 4


def test_nothing_out_of_the_ordinary_is_said_so() -> None:
    page = Page(report.render(detection(top=0)))
    assert "Nothing stands out in 11 events" in page.text
    assert "earlier ones" not in page.text
    assert "Look at these first" not in page.text


def test_alerts_before_the_test_part_are_said_to_be_earlier() -> None:
    made = detection()
    quiet = dataclasses.replace(made, frame=made.frame.with_columns(alert=pl.lit(False)))
    assert report.headline(quiet) == "Nothing stands out in 11 events; below are earlier ones"


def test_stretches_without_events_or_values_are_found() -> None:
    def past(times: list[float], values: list[float | None], longest: float | None = None) -> charts.Past:
        nothing, waits = [None] * len(times), [longest] * len(times)
        return charts.Past("amount", "numeric", False, times, values, nothing, waits, [False] * len(times), 0, "1")

    even = [float(time) for time in range(20)]
    assert charts.empty_stretches(past(even, [1.0] * 20)) == []
    silent = [*even, 40.0, 41.0]
    assert charts.empty_stretches(past(silent, [1.0] * 22)) == [(19.0, 40.0)]
    assert charts.empty_stretches(past([0.0, 9.0, 20.0], [1.0] * 3, longest=10.0)) == [(9.0, 20.0)]  # unexpected
    missing = [1.0, None, None, None, 1.0, None, *[1.0] * 14]
    assert charts.empty_stretches(past(even, missing)) == [(1.0, 3.0)]
    assert charts.empty_stretches(past(even, [1.0] * 18 + [None, None])) == [(18.0, 19.0)]
    assert charts.empty_stretches(past([1.0], [None])) == []


def test_shades_crosses_and_the_ring_are_in_the_drawing(html: str) -> None:
    wide = svgs(html)[0]
    drawn = ElementTree.tostring(wide, encoding="unicode")
    assert drawn.count('fill="var(--shade)"') == 2  # ten days of silence, and three events running without an amount
    texts = list(wide.itertext())
    assert texts.count("\u00d7") == 4
    assert texts.count("1,286.01") == 2  # the label and the edge behind it
    assert drawn.count('stroke="var(--red)"') == 1
    assert "30 events of this entity over time by amount; the event marked has 1,286.01" in wide.get("aria-label", "")


def test_a_history_is_cut_around_the_event_it_is_about() -> None:
    long = pl.DataFrame(
        {"who": "anna", "when": pl.int_range(400, eager=True) * 86_400.0, "amount": 1.0, "place": "shop"}
    )
    long = long.with_columns(amount=pl.when(pl.int_range(400) == 300).then(1286.01).otherwise("amount"))
    found = detection(long, top=1)
    past = report_entities.past_of(found, found.history(300), 300, found.features[0])
    assert past.values[past.marked] == 1286.01
    assert past.times[past.marked] == 300 * 86_400.0
    assert past.times == [day * 86_400.0 for day in range(300 - BEFORE, 300 + AFTER + 1)]
    assert past.alerts.index(True) == past.marked
    assert past.expected[past.marked] == (8.0, 14.0)


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"what was there")

    def fail(*_: object, **__: object) -> str:
        raise MemoryError

    monkeypatch.setattr(report, "render", fail)
    with pytest.raises(MemoryError):
        report.write(detection(), path)
    assert path.read_bytes() == b"what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
