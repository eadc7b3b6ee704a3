"""Run all benchmarks of this repository: figures, pictures, and a comparison of ratios with the stored baseline.

    python benchmarks/suite.py [--quick] [--only numpy_codec,boundary] [--save-baseline] [--docs]

Writes `benchmarks/results/latest.json`, `latest.md` and pictures; with `--only`, what is there of other programs is
kept, each with the machine and the date of its own run. Each program runs in a process of its own, one after
the other. Seconds depend on the machine, so what is compared with `baseline.json` are ratios of two things measured in
one run. A ratio that fell below the part of the baseline that is allowed is reported as a regression; the suite fails
for it only with `--strict`, and no test depends on it.

`--docs` puts the tables into `docs/benchmarks.md`; with `--no-run`, those of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compare import machine, table
from harness import Report
from plots import draw

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
BASELINE = HERE / "baseline.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- suite:start -->", "<!-- suite:end -->"
PROGRAMS = ["numpy_codec", "log_figures", "io_matrix", "boundary", "dataframe"]
ALLOWED = 0.5
"""Part of the baseline's ratio that is still no regression: what runs on a busy machine vary by."""


def run_program(name: str, args: argparse.Namespace) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(path)]
    command += ["--quick"] if args.quick else []
    command += ["--workdir", str(args.workdir)] if args.workdir else []
    command += ["--large"] if args.large and name == "io_matrix" else []
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return found


def run_pytest(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the small benchmarks, least and median."""
    path = RESULTS / "pytest.json"
    command = [sys.executable, "-m", "pytest", str(HERE), "--benchmark-only", "-q", f"--benchmark-json={path}"]
    command += ["--benchmark-columns=min,median,stddev", "-p", "no:cacheprovider"]
    command += ["-k", "log"] if args.quick else []
    subprocess.run(command, check=True, cwd=ROOT)
    found = json.loads(path.read_text())["benchmarks"]
    path.unlink()
    return {row["name"]: {key: row["stats"][key] for key in ("min", "median", "stddev")} for row in found}


def compare(ratios: dict[str, float], stored: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for name, value in ratios.items():
        before = stored.get(name)
        part = None if before is None else value / before
        rows.append({"ratio": name, "value": value, "baseline": before, "part": part})
        rows[-1]["regressed"] = part is not None and part < ALLOWED
    return rows


def ratios_table(rows: list[dict[str, Any]]) -> str:
    def text(value: float | None) -> str:
        return "" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"

    cells = [
        [row["ratio"], text(row["value"]), text(row["baseline"]), "**regressed**" if row["regressed"] else ""]
        for row in rows
    ]
    return table(["ratio (higher is better)", "now", "baseline", ""], cells)


def markdown(found: dict[str, Any]) -> str:
    about = found["machine"]
    lines = [
        f"* {about['date']}, {about['cpu']}, {about['cores']} cores, {about['ram_gb']} GB, Linux {about['kernel']}",
        f"* transparent huge pages `{about['transparent_hugepages']}`, load average at start "
        f"{about['load_average'][0]:.2f}, at end {found['load_at_end'][0]:.2f}",
        f"* commit {about['commit']}{', with changes' if about['modified'] else ''}; Python {about['python']}; "
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        f"* `{about['command']}`, {found['seconds'] / 60:.1f} minutes",
    ]
    if "--only" in about["command"]:
        lines.append("* the programs ran one at a time, each when it says; what stands here is of the last one")
    parts = ["\n".join(lines)]
    for program in found["programs"].values():
        report = Report.from_json(program)
        own = report.machine
        parts.append(f"### `{report.name}`: {report.about}")
        parts.append(f"{own['date']}, commit {own['commit']}, load average at start {own['load_average'][0]:.2f}.")
        if report.figures:
            parts.append(table(*report.figures_table()))
        parts += [f"**{one['title']}**\n\n{table(one['head'], one['rows'])}" for one in report.tables]
        if report.notes:
            parts.append("\n".join(f"* {note}" for note in report.notes))
    parts += ["### Ratios", ratios_table(found["comparison"])]
    return "\n\n".join(parts) + "\n"


def publish(text: str) -> None:
    """Put the tables of a run between the marks of the page."""
    page = PAGE.read_text()
    start, end = (page.index(mark) for mark in MARKS)
    PAGE.write_text(f"{page[: start + len(MARKS[0])]}\n{text.strip()}\n{page[end:]}")
    print(f"{PAGE} has the tables of this run")


def keep(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Store what is wanted of a run."""
    if "--quick" in found["machine"]["command"]:
        raise SystemExit("the last run was a quick one, which is nothing to be kept")
    if args.save_baseline:
        about = {key: found["machine"][key] for key in ("date", "cpu", "cores", "commit")}
        ratios = {row["ratio"]: float(f"{row['value']:.4g}") for row in found["comparison"]}
        BASELINE.write_text(json.dumps({"machine": about, "ratios": ratios}, indent=1) + "\n")
    if args.docs:
        publish(markdown(found))


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("evlib", "numpy", "polars", "pyarrow", "mcap"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small inputs and few rounds: to see that it works")
    parser.add_argument("--only", help="programs, separated by commas; leaves out pytest")
    parser.add_argument("--large", action="store_true", help="files of 10 GB too")
    parser.add_argument("--workdir", type=Path, help="where inputs are written; by default the temporary directory")
    parser.add_argument("--save-baseline", action="store_true", help="store the ratios of this run")
    parser.add_argument("--strict", action="store_true", help="fail if a ratio regressed")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--no-run", action="store_true", help="with --docs, --save-baseline: keep the last run")
    args = parser.parse_args()
    if args.quick and (args.docs or args.save_baseline):
        parser.error("a quick run is nothing to be kept")
    if args.no_run:
        if args.only or not (args.docs or args.save_baseline):
            parser.error("--no-run goes with --docs and --save-baseline")
        keep(json.loads((RESULTS / "latest.json").read_text()), args)
        return 0
    RESULTS.mkdir(exist_ok=True)
    start = time.time()
    chosen = args.only.split(",") if args.only else PROGRAMS
    if unknown := set(chosen) - set(PROGRAMS):
        parser.error(f"unknown programs {', '.join(sorted(unknown))}: known are {', '.join(PROGRAMS)}")

    latest = RESULTS / "latest.json"
    found: dict[str, Any] = {"programs": {}}
    if args.only and latest.exists():
        found = json.loads(latest.read_text())
    found |= {"machine": machine(), "versions": versions()}
    for name in chosen:
        print(f"\n## {name}", flush=True)
        found["programs"][name] = run_program(name, args)
    found["programs"] = {name: found["programs"][name] for name in PROGRAMS if name in found["programs"]}
    if not args.only:
        found["pytest_s"] = run_pytest(args)

    ratios = {
        f"{name}: {key}": value for name, run in found["programs"].items() for key, value in run["ratios"].items()
    }
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"ratios": {}}
    # Small inputs have other ratios.
    found["comparison"] = compare(ratios, {} if args.quick else stored["ratios"])
    found["load_at_end"], found["seconds"] = os.getloadavg(), time.time() - start
    latest.write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "latest.md").write_text(markdown(found))
    pictures = draw(found["programs"], RESULTS)

    missed = [row for run in found["programs"].values() for row in run["figures"] if row["met"] is False]
    regressed = [row["ratio"] for row in found["comparison"] if row["regressed"]]
    print(f"\n{ratios_table(found['comparison'])}\n")
    targets = sum(row["met"] is not None for run in found["programs"].values() for row in run["figures"])
    print(f"targets missed: {len(missed)} of {targets}")
    for row in missed:
        print(f"  {row['what']}: {row['value']:.4g} {row['unit']}, target {row['target']}")
    print(f"regressions: {', '.join(regressed) or 'none'}")
    print(f"{found['seconds'] / 60:.1f} minutes; {latest}, latest.md, {len(pictures)} pictures")
    keep(found, args)
    return 1 if args.strict and regressed else 0


if __name__ == "__main__":
    sys.exit(main())
