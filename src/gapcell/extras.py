"""What is said where a package is missing that one of gapcell's extras installs."""

from __future__ import annotations

__all__ = ["answered", "answered_for_keras"]

_BACKENDS = {"tensorflow": "tensorflow", "torch": "'gapcell[torch]'", "jax": "'gapcell[jax]'"}  # as pip takes them


def answered(error: ModuleNotFoundError, module: str, extra: str) -> ModuleNotFoundError:
    """The error of an import, with the pip line that cures it.

    Args:
        error: of an import in `module`.
        module: what was to be imported, as the user names it.
        extra: the one that installs what is missing.
    """
    return _saying(error, f"{module} needs {_package(error)}, which is not installed: pip install 'gapcell[{extra}]'")


def answered_for_keras(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error of `import keras`, which needs one of three backends and installs none."""
    package = _package(error)
    if package == "keras":
        wanted = "pip install 'gapcell[keras,torch]' and KERAS_BACKEND=torch in the environment (or jax, or tensorflow)"
        return _saying(error, f"gapcell.keras needs Keras 3 and a backend of it: {wanted}")
    if package not in _BACKENDS:
        return error
    others = ", ".join(f"{name} (pip install {pip})" for name, pip in _BACKENDS.items() if name != package)
    cure = f"pip install {_BACKENDS[package]}, or set KERAS_BACKEND to another: {others}"
    return _saying(error, f"Keras is to run on {package}, which is not installed: {cure}")


def _package(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]


def _saying(error: ModuleNotFoundError, sentence: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(sentence, name=error.name)
