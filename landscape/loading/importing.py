"""Import code that a person named; a failure becomes an error message of one line."""

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

from landscape.errors import InputError
from landscape.reporting.messages import cause


def import_file(path: Path, named_in: str) -> ModuleType:
    """Run a Python file as a module, with its folder on ``sys.path`` as if the file were a script.

    Each call runs the file again. A notebook therefore sees the file's present content.

    Args:
        path: Path of the file.
        named_in: Option or file that names the path, for messages.

    Raises:
        InputError: There is no such file, or running it raises an exception.
    """
    if not path.is_file():
        raise InputError(f"{named_in}: no such file {path}; check the path")
    path = path.resolve()
    _put_on_path(path.parent)
    # A unique name: `random.py` must not replace the standard library's module, nor one file another of its name.
    name = f"_landscape_problem_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{named_in}: {path} is not a file of Python; name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(_import_failure(str(path), error, named_in)) from error
    return module


def import_module(name: str, folder: Path, named_in: str) -> ModuleType:
    """Import ``package.module`` with ``folder`` on ``sys.path``.

    Args:
        name: The module's dotted name.
        folder: Folder put first on ``sys.path``, unless it is on the path already.
        named_in: Option or file that names the module, for messages.

    Raises:
        InputError: There is no such module, or importing it raises an exception.
    """
    _put_on_path(folder.resolve())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(_import_failure(f"{name} (looked for in {folder})", error, named_in)) from error


def raised_by(error: BaseException) -> str:
    """The type and message of an exception, with the innermost line of foreign code in its traceback."""
    frame = _innermost_foreign(error)
    return f"{cause(error)} at {frame.filename}:{frame.lineno}" if frame else cause(error)


def _import_failure(what: str, error: BaseException, named_in: str) -> str:
    if isinstance(error, SystemExit):
        return (
            f"{named_in}: {what} ends the program when it is imported ({raised_by(error)}); "
            "put what runs it as a script under `if __name__ == '__main__':`"
        )
    return f"{named_in}: {what} cannot be imported: {raised_by(error)}; correct it or install what it needs"


def _innermost_foreign(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame outside `landscape.loading`, the standard library and installed packages."""
    paths = sysconfig.get_paths()
    ours = [Path(__file__).parents[1], *(Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and not any(Path(frame.filename).is_relative_to(folder) for folder in ours)
    ]
    return frames[-1] if frames else None


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
