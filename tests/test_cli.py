"""The command line: what it takes, what it refuses and how, and what it leaves behind."""

from __future__ import annotations

import inspect
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest

import gapcell
from gapcell import cli, commands, detect, info, native
from gapcell.cli import main
from gapcell.commands.fitting import Choices
from gapcell.detect.distributed import joined
from gapcell.detect.simulate import Simulation

Captured = pytest.CaptureFixture[str]
RUN = [sys.executable, "-m", "gapcell"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}  # wherever the command is typed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the one that the command is typed in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled table of transactions, with a name that would do harm if it were not shown as text."""
    path = tmp_path_factory.mktemp("cards") / "cards.parquet"
    frame = Simulation(customers=60, days=60, seed=3, fraud_rate=0.03).frame().drop("kind", "terminal")
    frame.with_columns(customer=pl.lit("\x1b[31m[bold]<script>") + pl.col("customer")).write_parquet(path)
    return path


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def parameters(command: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """What a command takes by name: its own parameters, and in the place of `choices` what it shares with others."""
    found = dict(inspect.signature(command).parameters)
    if found.pop("choices", None):
        found |= inspect.signature(Choices).parameters
    return found


def refused(captured: Captured, words: list[str], status: int) -> str:
    """The one sentence with which the command refuses."""
    assert main(words) == status
    out, err = captured.readouterr()
    assert out == ""
    *progress, sentence = err.splitlines()
    assert sentence.startswith("gapcell: ")
    assert not [line for line in progress if line.startswith(("gapcell:", "Traceback"))]
    return sentence


# what is said without work


def test_help_comes_within_half_a_second() -> None:
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*RUN, "--help"], check=True, capture_output=True, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # of the processor, not of the clock: the clock counts what runs beside us
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 0.5


@pytest.mark.parametrize("command", ["detect", "fit", "score", "simulate", "laws", "info", "completion"])
def test_every_command_teaches_with_an_example(command: str, capsys: Captured) -> None:
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: gapcell {command}" in said
    for name in parameters(getattr(commands, command)):
        option = f"--{name.replace('_', '-')}"
        described = re.search(rf"({option}|{name.upper()})\b[^│]*? [a-z]\w+ \w+", said)
        assert described, f"{option} is not described"


def test_version_is_the_package_s(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == gapcell.__version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_and_options(shell: str, capsys: Captured) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("detect", "score", "checkpoint", "label-delay"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, encoding="utf-8", check=True)


def test_defaults_are_the_library_s() -> None:
    for command, owner in (
        (commands.detect, detect.FitOptions),
        (commands.fit, detect.FitOptions),
        (commands.simulate, Simulation),
        (commands.fit, joined),
    ):
        library = {name: value.default for name, value in inspect.signature(owner).parameters.items()}
        assert set(library) & set(parameters(command))
        for name, parameter in parameters(command).items():
            if name in library and parameter.default is not None:
                assert parameter.default == library[name], name


def test_info_tells_versions_and_the_kernel_without_importing_anything() -> None:
    code = (
        "import sys; from gapcell.cli import main; main(['info']);"
        "print(*sorted({'torch', 'jax', 'keras', 'polars', 'altair'} & set(sys.modules)), 'imported')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=ENVIRONMENT
    ).stdout
    lines = dict(line.split(maxsplit=1) for line in said.splitlines() if line.strip() != "imported")
    assert said.splitlines()[-1] == "imported"
    assert lines["torch"] == metadata.version("torch")
    assert lines["numpy"] == metadata.version("numpy")
    assert lines["gapcell"] == gapcell.__version__
    active = native.active()
    path = "pure PyTorch" if active.name == "off" else f"compiled, {active.name}"
    assert lines["kernel"] == f"{path}: {active.reason}"


@pytest.mark.parametrize(
    ("kernel", "handlers", "said"),
    [
        ("off", False, "pure JAX: chosen by name"),
        ("avx2", True, "compiled, avx2: called by XLA itself"),
        (
            "avx2",
            False,
            "compiled, avx2: called through Python, as it was built without JAX's headers; "
            "install gapcell again where jax is installed",
        ),
    ],
)
def test_info_tells_how_jax_reaches_the_kernel(kernel, handlers, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr(native, "active", lambda: native.Active(kernel, "chosen by name"))
    monkeypatch.setattr(native, "xla_handlers", lambda: {"gapcell_xla_forward": None} if handlers else {})
    monkeypatch.setattr(info, "version_of", lambda names: "1.0")
    commands.info()
    assert f"in jax        {said}\n" in capsys.readouterr().out
    monkeypatch.setattr(info, "version_of", lambda names: None)
    commands.info()
    assert "in jax" not in capsys.readouterr().out


# what is missing


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("cyclopts", ["--help"], "cli"),
        ("rich", ["info"], "cli"),
        ("polars", ["detect", "t.csv"], "detect"),
        ("torch", ["detect", "t.csv"], "detect"),
        ("polars", ["simulate", "t.csv"], "detect"),
        ("polars", ["score", "model", "t.csv"], "detect"),
        ("cyclopts", ["detect", "t.csv"], "detect"),  # which installs cli too: one line, not one after the other
        ("cyclopts", ["laws"], "cli"),
    ],
)
def test_a_missing_extra_is_answered_with_the_pip_line(module: str, words: list[str], extra: str, folder: Path) -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"from gapcell.cli import main; sys.exit(main({words!r}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ran.returncode == 2
    assert ran.stderr == f"gapcell: this needs {module}, which is not installed: pip install 'gapcell[{extra}]'\n"


def test_a_module_of_nobody_s_is_an_unexpected_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ModuleNotFoundError("no such thing", name="gapcell.lost")

    monkeypatch.setattr(commands, "run", fail)
    with pytest.raises(ModuleNotFoundError, match="no such thing"):
        main(["info"])


# what is refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["detect"], "give a table, or --demo and no table"),
        (["detect", "t.csv", "--demo"], "give a table, or --demo and no table"),
        (["detect", "--demo", "--entity", "x"], "--demo knows its columns"),
        (["detect", "t.csv", "--bogus"], "Unknown option: --bogus; see gapcell detect --help"),
        (["detect", "t.csv", "--window", "two"], "--window"),
        (["detect", "t.csv", "--window", "0"], "window (=0) must be a whole number from 1"),
        (["detect", "t.csv", "--budget", "nan"], "budget (=nan) must be a share between 0 and 1"),
        (["detect", "t.csv", "--upper", "a", "--lower", "a"], "'a' is named in upper and in lower"),
        (["detect", "t.csv", "--report", "report.pdf"], "--report (='report.pdf') must end in .html"),
        (["detect", "t.csv", "--scores", "scores.xlsx"], "--scores (='scores.xlsx') must end in .parquet or .csv"),
        (["detect", "t.csv", "--scores", "./t.csv"], "--scores 't.csv' would overwrite the input table"),
        (["score", "model", "t.csv", "--scores", "t.csv"], "would overwrite the input table"),
        (["detect", "t.csv", "--model", "t.csv"], "--model 't.csv' is a file: give the name of a folder"),
        (["simulate", "t.xlsx"], "OUT (='t.xlsx') must end in .parquet or .csv"),
        (["simulate", "s.csv", "--fraud-rate", "2"], "fraud_rate (=2.0) must be between 0 and 0.1"),
        (["simulate"], "OUT"),
        (["frobnicate"], 'Unknown command "frobnicate"'),
    ],
)
def test_misuse_is_one_sentence_and_status_2(words: list[str], sentence: str, folder: Path, capsys: Captured) -> None:
    (folder / "t.csv").write_text("customer,t,amount\na,2024-01-01,1\n")
    assert sentence in refused(capsys, words, status=2)
    assert (folder / "t.csv").read_text() == "customer,t,amount\na,2024-01-01,1\n"
    assert names(folder) == {"t.csv"}


def test_a_link_to_the_input_is_the_input(folder: Path, capsys: Captured) -> None:
    (folder / "t.csv").write_text("customer,t\na,2024-01-01\n")
    (folder / "s.csv").symlink_to(folder / "t.csv")
    assert "would overwrite the input table" in refused(capsys, ["detect", "t.csv", "--scores", "s.csv"], status=2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["detect", "missing.csv"], "there is no file missing.csv"),
        (["detect", "t.csv", "--entity", "custmer"], "did you mean 'customer'?"),
        (["detect", "t.csv"], "row 2 holds 'soon'"),
        (["detect", "t.csv", "--report", "nowhere/report.html"], "there is no folder"),
        (["detect", "t.csv", "--report", "folder.html"], "it is not a file; give the name of a file"),
        (["score", "nothing", "t.csv"], "nothing"),
        (["simulate", "nowhere/s.csv"], "there is no folder"),
    ],
)
def test_a_bad_table_model_or_folder_is_one_sentence_and_status_1(
    words: list[str], sentence: str, folder: Path, capsys: Captured
) -> None:
    (folder / "t.csv").write_text("customer,t,amount\na,2024-01-01,1\na,soon,2\n")
    (folder / "report.html").write_text("an old report")
    (folder / "folder.html").mkdir()
    assert sentence in refused(capsys, words, status=1)
    assert names(folder) == {"t.csv", "report.html", "folder.html"}
    assert (folder / "report.html").read_text() == "an old report"


def test_the_unexpected_is_not_dressed_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(detect, "read_table", fail)
    with pytest.raises(ZeroDivisionError):
        main(["detect", "t.csv"])


# what is passed on


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What `read_table` is called with; it then refuses, so that nothing else happens."""
    calls: list[dict[str, object]] = []

    def read_table(source: Path, **given: object) -> None:
        calls.append({"source": source, **given})
        raise detect.TableError("read")

    monkeypatch.setattr(detect, "read_table", read_table)
    return calls


def test_columns_are_named_together_or_one_by_one(reading: list[dict[str, object]], folder: Path) -> None:
    for words in (["--value", "a", "b"], ["--value", "a", "--value", "b"], ["--value=a", "--value=b"]):
        assert main(["detect", "t.csv", *words, "--entity", "who", "--time", "when", "--label", "bad"]) == 1
    expected = {"source": Path("t.csv"), "entity": "who", "time": "when", "values": ["a", "b"], "label": "bad"}
    assert reading == [expected] * 3


def test_columns_left_out_are_left_to_be_guessed(reading: list[dict[str, object]], folder: Path) -> None:
    main(["detect", "t.csv"])
    assert reading == [{"source": Path("t.csv"), "entity": None, "time": None, "values": None, "label": None}]


# what is left behind


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["fit", "render", "write_parquet"])
def test_an_interruption_leaves_old_files_and_status_130(
    place: str, cards: Path, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {"fit": detect, "render": "gapcell.detect.report", "write_parquet": pl.DataFrame}[place]
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{place}", interrupt)
    else:
        monkeypatch.setattr(owner, place, interrupt)
    (folder / "report.html").write_text("an old report")
    (folder / "scores.parquet").write_text("old scores")
    words = ["detect", str(cards), "--label", "label", "--epochs", "1", "--model", "model"]
    assert "interrupted; no output was written" in refused(capsys, words, status=130)
    assert names(folder) == {"report.html", "scores.parquet"}
    assert (folder / "report.html").read_text() == "an old report"
    assert (folder / "scores.parquet").read_text() == "old scores"


def test_ctrl_c_in_a_shell_leaves_nothing(folder: Path) -> None:
    words = [*RUN, "simulate", "big.parquet", "--customers", "1000000", "--days", "365"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not any(name.endswith(".parquet") for name in names(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "big.parquet" not in names(folder)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "gapcell: interrupted; no output was written"
    assert "Traceback" not in err
    assert names(folder) == set()


def test_simulate_writes_what_the_library_makes(folder: Path, capsys: Captured) -> None:
    words = ["--customers", "50", "--days", "40", "--seed", "9", "--fraud-rate", "0.02", "--missing-rate", "0.1"]
    assert main(["simulate", "s.parquet", *words]) == 0
    out, err = capsys.readouterr()
    expected = Simulation(customers=50, days=40, seed=9, fraud_rate=0.02, missing_rate=0.1).frame()
    assert pl.read_parquet("s.parquet").equals(expected)
    assert f"{expected.height:,} events, {expected['label'].sum()} of them labelled" in err
    assert out == "events   s.parquet\n"


@pytest.fixture(scope="module")
def detected(cards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder in which `gapcell detect` ran, what it said on standard output, and what on standard error."""
    folder = tmp_path_factory.mktemp("detected")
    words = [*RUN, "detect", str(cards), "--label", "label", "--budget", "0.01", "--epochs", "2", "--model", "model"]
    ran = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout, ran.stderr


def test_detect_leaves_a_report_scores_and_a_model(detected: tuple[Path, str, str], cards: Path) -> None:
    folder, out, err = detected
    assert names(folder) == {"report.html", "scores.parquet", "model"}
    scores = pl.read_parquet(folder / "scores.parquet")
    assert scores.height == pl.read_parquet(cards).height
    assert {"entity", "time", "score", "alert", "part", "reason"} <= set(scores.columns)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["report", "scores", "model"]
    assert "against the label" in out
    assert "entity: customer (guessed)" in err
    assert re.search(r"encoder by customer: \w+, held-out negative log-likelihood -?\d", err)


def test_elsewhere_than_on_a_terminal_lines_are_plain(detected: tuple[Path, str, str]) -> None:
    _, out, err = detected
    assert "\x1b" not in out + err
    assert "[bold]<script>" in out
    assert "training: 2 of 2" in err


def test_on_a_terminal_there_are_bars(folder: Path) -> None:
    reader, writer = pty.openpty()
    words = [*RUN, "simulate", "s.parquet", "--customers", "2000", "--days", "30"]
    # the bars go to standard error, the results to standard output: only the first is a terminal here
    ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=writer, check=True, env=ENVIRONMENT | {"TERM": "xterm"})
    os.close(writer)
    said = os.read(reader, 1 << 20).decode()
    os.close(reader)
    assert "\x1b[" in said
    assert "simulating" in said
    assert "2/2" in said
    assert ran.stdout == b"events   s.parquet\n"


def test_real_orders_give_scores_for_every_one(folder: Path, capsys: Captured) -> None:
    orders = Path(os.environ.get("GAPCELL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    orders = orders / "online_retail_orders.parquet"
    if not orders.is_file():
        pytest.skip("online_retail_orders.parquet is not in GAPCELL_DATA")
    table = pl.read_parquet(orders).with_columns(reversed=pl.when("label_mature").then("label"))
    table.write_parquet("orders.parquet")
    columns = ["gbp", "n_lines", "qty", "max_qty", "n_stock", "cancel"]
    words = ["orders.parquet", "--entity", "customer", "--time", "t", "--value", *columns, "--label", "reversed"]
    assert main(["detect", *words, "--encoder", "lstm", "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    average, chance = re.search(r"average precision +([\d.]+) +([\d.]+)", said).groups()  # pyrefly: ignore
    assert 0 <= float(average) <= 1
    assert 0.002 < float(chance) < 0.05  # about one order in a hundred is reversed
    scores = pl.read_parquet("scores.parquet")
    assert scores.height == table.height
    assert scores["score"].is_not_null().mean() > 0.99
    assert scores.filter(pl.col("score").is_null())["reason"].is_not_null().all()
    assert "reversed" in Path("report.html").read_text(encoding="utf-8")


def test_a_budget_that_the_table_is_too_short_for_is_said(folder: Path, capsys: Captured) -> None:
    Simulation(customers=20, days=40, fraud_rate=0).frame().drop("label", "kind").write_parquet("short.parquet")
    assert main(["detect", "short.parquet", "--budget", "1e-5", "--epochs", "1", "--encoder", "none"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"Nothing stands out in .* events\n  \d+ held-out events are too few for a budget of 1 in 100,000", said
    )


def test_score_reuses_a_saved_model(
    detected: tuple[Path, str, str], cards: Path, folder: Path, capsys: Captured
) -> None:
    made, _, _ = detected
    assert main(["score", str(made / "model"), str(cards), "--scores", "again.csv", "--report", "again.html"]) == 0
    assert names(folder) == {"again.csv", "again.html"}
    before = pl.read_parquet(made / "scores.parquet")
    again = pl.read_csv("again.csv", schema_overrides={"score": pl.Float64})
    assert again["score"].to_list() == before["score"].to_list()
    assert again["alert"].to_list() == before["alert"].to_list()


def test_a_foreign_model_is_refused(cards: Path, folder: Path, capsys: Captured) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "detector.json").write_text("{}")
    sentence = refused(capsys, ["score", "model", str(cards)], status=1)
    assert "model" in sentence
    assert names(folder) == {"model"}


def test_the_demo_reads_the_real_table_and_compares(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def load_cdnow() -> None:
        given["read"] = True
        raise detect.TableError("the table of the demo comes with the package lifetimes")

    monkeypatch.setattr(detect, "load_cdnow", load_cdnow)
    assert "lifetimes" in refused(capsys, ["detect", "--demo"], status=1)
    assert given == {"read": True}
