"""A worker: `python -P -m clipsec.isolation IN OUT FOLDER...`, as `clipsec.isolation.Worker` starts it.

Reads messages from the file number IN and writes them to OUT, may change what is below the folders, and runs
one detector.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clipsec.isolation._confine import confine, launch, watch

if TYPE_CHECKING:
    from clipsec.isolation._frames import Frame
    from clipsec.isolation._link import Link


def main() -> NoReturn:
    """Never returns."""
    fileno_in, fileno_out = int(sys.argv[1]), int(sys.argv[2])
    folders = [Path(argument) for argument in sys.argv[3:]]

    def work() -> NoReturn:
        try:
            _serve(fileno_in, fileno_out, folders)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    launch(work)


def _serve(fileno_in: int, fileno_out: int, folders: list[Path]) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us
    for fileno in (fileno_in, fileno_out):
        os.set_inheritable(fileno, False)
    from clipsec.isolation._link import Link

    link = Link(fileno_in, fileno_out)
    asked = link.receive()
    _import_everything()
    confine(folders, asked.whole("memory_bytes"))
    refused = watch(folders)
    link.tell("importing", {})
    registry, plugin, options = _describe(link, asked)
    run = link.receive()
    try:
        answer = _detect(link, run, registry, plugin, options)
        link.tell("verdict", {"verdict": answer, "refused": refused})
    except BaseException as error:
        link.tell("error", {**_told(error), "refused": refused})
    while True:
        link.receive()  # until the parent has looked around, and ends us


def _import_everything() -> None:
    """What would otherwise be imported after memory is bounded; the plugin's own imports come later."""
    import clipsec.isolation._context
    import clipsec.runner  # noqa: F401


def _describe(link: Link, asked: Frame) -> tuple[Any, Any, Any]:
    """Import the plugin and say what it is. Whatever is wrong with it is said too; then there is no return
    that is used."""
    import attrs

    from clipsec.errors import UsageError
    from clipsec.results._plain import decode_plain, encode_plain
    from clipsec.runner import make_options
    from clipsec.runner._detectors import broken_contract, runs_by_default
    from clipsec_registry import Lock, LockedDistribution, Registry

    lock = decode_plain(asked.fields["lock"])
    if lock is not None:
        entries = {
            name: {**entry, "entry_points": tuple(entry["entry_points"])} for name, entry in lock.items()
        }
        lock = Lock({name: LockedDistribution(**entry) for name, entry in entries.items()})
    registry = Registry(lock=lock, local=asked.texts("local"))
    record = registry.find("detectors", asked.text("plugin"))
    plugin = registry.load(record)
    record = registry.record(record)
    said: dict[str, Any] = {
        "status": str(record.status), "reason": record.reason, "remedy": record.remedy,
        "needs": [], "options": {}, "broken": "" if plugin is None else broken_contract(plugin),
        "by_default": runs_by_default(plugin),
    }  # fmt: skip
    options = None
    if plugin is not None and not said["broken"]:
        try:
            options = make_options(plugin.options, decode_plain(asked.table("values")), record.name)
        except UsageError as error:
            link.tell("usage", {"message": error.message, "remedy": error.remedy})
            return registry, None, None
        said["needs"] = sorted(map(str, plugin.needs))
        said["options"] = encode_plain(attrs.asdict(options), "options")
    link.tell("described", said)
    return registry, plugin, options


def _detect(link: Link, run: Frame, registry: Any, plugin: Any, options: Any) -> dict[str, Any]:
    from clipsec.isolation._context import context_of
    from clipsec.results import check_verdict, verdict_to_json

    context = context_of(run, options, link, registry)
    answer = plugin().detect(context)
    if inspect.isgenerator(answer):
        problem: Any = answer
        answer = context.scheduler.run(problem)
    return verdict_to_json(check_verdict(answer))


def _told(error: BaseException) -> dict[str, str]:
    from clipsec.errors import ClipsecError

    if isinstance(error, SystemExit):
        kind, message = "ContractError", f"the detector called sys.exit({error.code!r})"
    else:
        kind, message = type(error).__name__, str(error)
    remedy = error.remedy if isinstance(error, ClipsecError) else "Report this to the plugin's author."
    if isinstance(error, MemoryError) or "can't allocate memory" in message:
        kind, message = "MemoryError", f"{message or 'out of memory'} (under --memory-limit)"
        remedy = "Allow more with --memory-limit, or report this to the plugin's author."
    trace = "".join(traceback.format_exception(error))[-20_000:]
    return {"type": kind, "message": message[:4000], "remedy": remedy, "traceback": trace}


if __name__ == "__main__":
    main()
