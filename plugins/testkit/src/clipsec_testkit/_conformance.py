"""The pytest side: base classes whose tests are the checks of a battery."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from clipsec_testkit._attacks import AttackBattery
from clipsec_testkit._check import Battery, CheckFailed, CheckSkipped, rule_of
from clipsec_testkit._detectors import DetectorBattery
from clipsec_testkit._loaders import ModelLoaderBattery
from clipsec_testkit._measures import InterfaceBattery, RepairBattery


class Conformance:
    """What the base classes share. A subclass says `make = MyPlugin`: the class, or a callable without
    arguments that makes one. `options` are the plugin's options for the controls, e.g. fewer steps.

    A plugin may state the same settings once, as a class attribute `conformance`, a mapping; what the test
    class says goes first.
    """

    make: ClassVar[Any]
    battery: ClassVar[type[Battery]]
    options: ClassVar[dict[str, Any]]
    _batteries: ClassVar[dict[type, Battery]] = {}

    @classmethod
    def battery_of(cls) -> Battery:
        """The battery of this test class, made once, so that its tests share the runs of the plugin."""
        if cls not in Conformance._batteries:
            make = inspect.getattr_static(cls, "make", None)
            make = make.__func__ if isinstance(make, staticmethod | classmethod) else make
            if not callable(make):
                pytest.fail(
                    f"{cls.__name__} does not say what it tests: add `make = MyPlugin`", pytrace=False
                )
            own = {name: getattr(cls, name) for name in cls.battery.known if hasattr(cls, name)}
            Conformance._batteries[cls] = cls.battery(make, {**declared(make), **own})
        return Conformance._batteries[cls]

    def _check(self, name: str) -> None:
        broken = skipped = None
        try:
            self.battery_of().run(name)
        except CheckSkipped as reason:
            skipped = str(reason)
        except CheckFailed as reason:
            broken = str(reason)
        # Outside of the except blocks: what the author needs is the sentence, not our traceback.
        if skipped is not None:
            pytest.skip(skipped)
        if broken is not None:
            pytest.fail(broken, pytrace=False)


def declared(make: Any) -> dict[str, Any]:
    """The settings that a plugin states itself, in its class attribute `conformance`."""
    return dict(getattr(make, "conformance", None) or {})


def _with_tests(cls: type[Conformance]) -> type[Conformance]:
    """Give the class one test for each check of its battery, named like it, with the rule as docstring."""
    for name in cls.battery.names:
        bound = _bind(name)
        bound.__doc__ = rule_of(cls.battery, name)
        bound.__name__ = f"test_{name}"
        bound.__qualname__ = f"{cls.__qualname__}.test_{name}"
        setattr(cls, f"test_{name}", bound)
    return cls


def _bind(name: str) -> Callable[[Conformance], None]:
    def test(self: Conformance) -> None:
        self._check(name)

    return test


@_with_tests
class DetectorConformance(Conformance):
    """Subclass it in a test module: `class TestMine(DetectorConformance): make = Mine`.

    `detects` names the toy backdoors (visual, textual, prompt) that the detector must find; without it, it
    must find at least one. `inconclusive` maps clean toys (clean, clean-tuned, clean-prompt) on which it may
    be inconclusive to the reason. `tolerance` is how far a score may move with neighbours and after running
    out of memory, relative to the larger of 1 and the score (default 0.001).
    """

    battery = DetectorBattery


@_with_tests
class AttackConformance(Conformance):
    """For attacks. `success` and `accuracy_drop` are the success rate that a poisoned toy must reach (default
    0.5) and the clean accuracy that it may lose (default 0.2). A trigger in captions is tried
    on captions of the toys' classes: it must send them to the card's target, where the clean toy does not."""

    battery = AttackBattery


@_with_tests
class InterfaceConformance(Conformance):
    """For interfaces. `toy` is the backdoored toy to measure (visual, textual, prompt); by default one whose
    trigger enters through a channel of its card."""

    battery = InterfaceBattery


@_with_tests
class RepairConformance(Conformance):
    """For repairs, which are given a finding about the toy: a perturbation that inversion found, or tokens
    that a search found, not the planted trigger. `success` is the success rate that may be left after the
    repair of a toy that `repairs` names (default 0.2), `accuracy_drop` the clean accuracy that it may lose
    (default 0.2)."""

    battery = RepairBattery


@_with_tests
class ModelLoaderConformance(Conformance):
    """For loaders of models. `deliver(folder)` writes something that the loader reads and returns its spec;
    `layout` says instead that it reads what others do (open_clip, prompt-tuned, transformers); `spec` names
    something installed. `cache` is a folder below the user's cache folder that it may write to."""

    battery = ModelLoaderBattery
