"""The battery for loaders of models."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import platformdirs
import torch

from clipsec.errors import ClipsecError
from clipsec.models import LoadRequest, Suspect, sanity_gate
from clipsec.protocols import ModelLoader
from clipsec_testkit._check import QUIET, Battery, CheckFailed, CheckSkipped
from clipsec_testkit._layouts import write_layout
from clipsec_testkit._watch import Watch


@attrs.define(eq=False)
class ModelLoaderBattery(Battery):
    """What every loader must keep to."""

    known: ClassVar[frozenset[str]] = frozenset({"cache", "deliver", "layout", "spec"})
    names: ClassVar[tuple[str, ...]] = (
        "facts",
        "recognition",
        "loading",
        "determinism",
        "damaged_files",
        *QUIET,
    )

    def check_facts(self) -> None:
        """It is a loader, and states a summary and its API version."""
        self.check_common_facts()
        if not isinstance(self.plugin(), ModelLoader):
            raise CheckFailed("it has no methods matches(spec) and load(spec, request)")

    def check_recognition(self) -> None:
        """It wants what it reads, and nothing else."""
        spec, _ = self._delivered()
        if not self.plugin().matches(spec):
            raise CheckFailed(f"it does not want {spec}, which it is for")
        empty = self.new_folder()
        (empty / "notes.txt").write_text("no model\n", encoding="utf-8")
        for other in (str(empty), str(empty / "missing"), "no-such-loader:thing", ""):
            if self.plugin().matches(other):
                raise CheckFailed(f"it wants {other!r}, which is no model")

    def check_loading(self) -> None:
        """It gives a frozen fp32 suspect on the CPU that passes the sanity gate."""
        suspect = self._loaded()
        base = suspect.base
        if base.visual is None and base.text is None:
            raise CheckFailed("the suspect has neither an image tower nor a text tower")
        for part in (base.visual, base.text):
            if part is None:
                continue
            if part.module.training:
                raise CheckFailed("a tower is in training mode")
            for name, tensor in part.module.named_parameters():
                if tensor.requires_grad:
                    raise CheckFailed(f"{name} is not frozen")
                if tensor.device.type != "cpu" or tensor.dtype is not torch.float32:
                    raise CheckFailed(f"{name} is {tensor.dtype} on {tensor.device}")
        gate = sanity_gate(suspect)
        if not gate.passed:
            raise CheckFailed(f"the suspect fails the sanity gate: {gate.reason}")

    def check_determinism(self) -> None:
        """Loading twice gives the same digest."""
        spec, _ = self._delivered()
        first, again = self._loaded(), self.plugin().load(spec, LoadRequest())
        if first.digest != again.digest:
            raise CheckFailed("loaded twice, the suspect has two digests")

    def check_damaged_files(self) -> None:
        """A truncated file is refused with a remedy, noted, or makes no difference to what is loaded."""
        self._loaded()
        spec, folder = self._delivered()
        if folder is None:
            raise CheckSkipped("the loader reads no files that this test could damage: set deliver")
        whole = self._loaded()
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1)
        for path in files:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            try:
                suspect = self.plugin().load(spec, LoadRequest())
            except ClipsecError as error:
                if not error.remedy:
                    raise CheckFailed(f"with {path.name} cut in half its error has no remedy") from error
            except Exception as error:
                raise CheckFailed(
                    f"with {path.name} cut in half it raises {type(error).__name__}, not a ModelError"
                ) from error
            else:
                if suspect.digest != whole.digest and suspect.card.notes == whole.card.notes:
                    raise CheckFailed(f"with {path.name} cut in half it loads another model without a word")
            finally:
                path.write_bytes(content)

    def check_no_stray_files(self) -> None:
        """It writes nothing, except into a cache that its author names."""
        watches = self._watches()
        cache = self.settings.get("cache")
        if cache is not None:
            own = Path(platformdirs.user_cache_dir()) / cache
            for watch in watches.values():
                watch.writes = [path for path in watch.writes if not Path(path).is_relative_to(own)]
        self.require_quiet(watches, "writes", "it writes")

    def _delivered(self) -> tuple[str, Path | None]:
        """The spec, and the folder whose files may be damaged."""
        if "delivered" not in self._runs:
            deliver, spec = self.settings.get("deliver"), self.settings.get("spec")
            layout = self.settings.get("layout")
            if deliver is None and layout is not None:
                deliver = partial(write_layout, layout)
            if deliver is None and spec is None:
                raise CheckFailed("there is nothing to load: set deliver, layout or spec")
            folder = None
            if deliver is not None:
                folder = self.new_folder()
                deliver = getattr(deliver, "__func__", deliver)
                spec = str(deliver(folder))
            self._runs["delivered"] = spec, folder
        delivered: tuple[str, Path | None] = self._runs["delivered"]
        return delivered

    def _loaded(self) -> Suspect:
        spec, _ = self._delivered()
        if "loaded" not in self._runs:
            # Once unwatched: what libraries do at their first import is not the loader's doing.
            self.plugin().load(spec, LoadRequest())
            scratch = self.new_folder()
            with Watch(scratch, scratch / "none", own_home=False) as watch:
                self._runs["loaded"] = self.plugin().load(spec, LoadRequest())
            self._runs["watch"] = watch
            shutil.rmtree(scratch, ignore_errors=True)
        if not isinstance(self._runs["loaded"], Suspect):
            raise CheckFailed(f"it gives a {type(self._runs['loaded']).__name__}, not a Suspect")
        loaded: Suspect = self._runs["loaded"]
        return loaded

    def _watches(self) -> dict[str, Any]:
        self._loaded()
        return {"loading": self._runs["watch"]}
