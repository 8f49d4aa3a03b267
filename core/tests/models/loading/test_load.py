"""Choosing a loader: prefixes, order, plugins that fail, and what is said when none fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipsec.errors import ModelError, UnsupportedModelError, UsageError
from clipsec.models import LoadRequest, OpenClipLoader, PromptTunedLoader, Suspect, load_clip, load_suspect
from clipsec_registry import Registry


class Recording:
    """A loader that wants everything and counts how often it was asked."""

    summary = "takes anything"
    api_version = "1.0"

    def __init__(self, base: Path) -> None:
        self.base = base
        self.asked: list[str] = []

    def matches(self, spec: str) -> bool:
        self.asked.append(spec)
        return spec.startswith("mine:")

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        return OpenClipLoader().load(str(self.base), request)


def test_loaders_can_be_given(base: Path) -> None:
    """With `loaders`, those and no others are asked, in order."""
    mine = Recording(base)
    suspect = load_suspect("mine:thing", loaders=[PromptTunedLoader(), mine])
    assert suspect.base.digest == load_suspect(base).base.digest
    assert mine.asked == ["mine:thing"]
    with pytest.raises(UnsupportedModelError):
        load_suspect(base, loaders=[PromptTunedLoader()])


def test_a_base_is_loaded_by_the_same_loaders(tuned: Callable[..., Path], base: Path) -> None:
    """A delivery whose base only a given loader knows still finds it."""
    folder = tuned(base={"spec": "mine:base"})
    mine = Recording(base)
    suspect = load_suspect(folder, loaders=[PromptTunedLoader(), mine])
    assert suspect.base.digest == load_suspect(base).base.digest
    with pytest.raises(UnsupportedModelError, match="no loader knows mine:base"):
        load_suspect(folder)


def test_load_clip_gives_the_model_alone(base: Path) -> None:
    """The base of something else is a ClipModel."""
    assert load_clip(str(base), LoadRequest()).digest == load_suspect(base).base.digest


@pytest.mark.parametrize(
    ("spec", "error", "told", "remedy"),
    [
        ("nowhere", ModelError, "there is no nowhere", "path"),
        ("no/where", ModelError, "there is no no/where", "path"),
        ("", ModelError, "there is no", "path"),
        ("magic:thing", UnsupportedModelError, "no loader knows magic:thing", "open_clip:NAME@FILE"),
        ("\x1b[31mred", ModelError, r"\\x1b\[31mred", "path"),
        ("x" * 5000, ModelError, "there is no", "path"),
        ("nul\0byte", ModelError, r"nul\\x00byte", "path"),
    ],
)
def test_unknown_specs(
    spec: str,
    error: type[ModelError],
    told: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody knows is an error that names it, harmlessly, and says what would be known."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told) as caught:
        load_suspect(spec)
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_device_that_does_not_exist(base: Path) -> None:
    """A wrong device is the command line's fault, and is noticed before anything is read."""
    with pytest.raises(UsageError, match="there is no device abacus"):
        load_suspect(base, device="abacus")


def test_a_device_that_this_machine_lacks(base: Path) -> None:
    """Otherwise each check of the sanity gate would fail, as if the model were broken."""
    with pytest.raises(UsageError, match="the device cuda:99 cannot be used here"):
        load_suspect(base, device="cuda:99")


def test_files_and_folders_that_say_too_little(tmp_path: Path) -> None:
    """Weights alone and empty folders are not guessed at; the error lists what was looked for."""
    (tmp_path / "weights.pt").write_bytes(b"anything")
    with pytest.raises(UnsupportedModelError, match="do not say what they are") as caught:
        load_suspect(tmp_path / "weights.pt")
    assert "open_clip:NAME@" in caught.value.remedy
    with pytest.raises(UnsupportedModelError) as caught:
        load_suspect(tmp_path)
    for name in ("clipsec.json", "prompt_learner/", "open_clip_config.json", "config.json"):
        assert name in caught.value.message


def install(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on the path that offers `NAME:Loader` as a model loader called NAME."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: a loader\n")
    (info / "entry_points.txt").write_text(f"[clipsec.models]\n{name} = {module}:Loader\n")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")
    monkeypatch.syspath_prepend(str(folder))


CODE = """
class Loader:
    summary = "a loader"
    api_version = "1.0"
    def matches(self, spec):
        return spec.startswith("{prefix}:")
    def load(self, spec, request):
        {load}
"""


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_file_that_git_lfs_has_not_fetched(tmp_path: Path, name: str) -> None:
    """The likeliest broken file of a pipeline has a remedy of its own."""
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5f' * 32}\nsize 12345\n")
    with pytest.raises(ModelError, match="pointer of git-lfs") as caught:
        load_suspect(f"open_clip:ViT-B-32@{path}")
    assert "git lfs pull" in caught.value.remedy


def test_an_installed_loader_is_found(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's loader is asked like the built-in ones, through its entry point."""
    load = f"from clipsec.models import OpenClipLoader; return OpenClipLoader().load({str(base)!r}, request)"
    install(tmp_path, "fine-loader", CODE.format(prefix="fine-loader", load=load), monkeypatch)
    assert load_suspect("fine-loader:x", registry=Registry("models")).base.digest


def test_an_installed_loader_that_fails_is_reported(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken plugin costs nothing that others can load, and is named when its own spec is asked for."""
    install(tmp_path, "broken-loader", "raise RuntimeError('no luck')", monkeypatch)
    registry = Registry("models")
    assert load_suspect(base, registry=registry).base.digest
    with pytest.raises(UnsupportedModelError, match=r"broken-loader.*no luck"):
        load_suspect("broken-loader:x", registry=registry)


@pytest.mark.parametrize(
    ("load", "told"),
    [("raise KeyError('deep inside')", "KeyError"), ("return 5", "gave a int")],
)
def test_a_loader_that_breaks_its_contract(
    load: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a plugin's loader raises or returns, the user sees a ModelError that names the loader."""
    name = f"bad-loader-{told.split()[0].lower()}"
    install(tmp_path, name, CODE.format(prefix=name, load=load), monkeypatch)
    with pytest.raises(ModelError, match=told) as caught:
        load_suspect(f"{name}:x", registry=Registry("models"))
    assert name in caught.value.message
    assert "authors" in caught.value.remedy
