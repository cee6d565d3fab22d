"""The installed package: the library and its command, and no module that shadows a user's own folders."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_the_wheel_holds_the_library_alone(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    ran = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(entry_points).decode())
    info = entry_points.split("/")[0]
    assert {name.split("/")[0] for name in names} == {"landscape", info}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "landscape").rglob("*.py")}
    assert {name for name in names if name.startswith("landscape/")} == sources | {"landscape/py.typed"}
    assert f"{info}/licenses/LICENSE" in names
    assert dict(points["console_scripts"]) == {
        "landscape-probe": "landscape.cli.probe:main",
        "landscape-plot": "landscape.cli.plot:main",
    }
