"""The verbs of `python -m busfast VERB`. Nothing runs before the whole command line is checked."""

import inspect
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout, suppress

from busfast import __version__, processes
from busfast.bench import bench
from busfast.cli import parse
from busfast.cli.data import audit, cache, prepare, split
from busfast.cli.flags import read_keys, with_pixel_limit
from busfast.cli.models import demo, ensemble, export, predict
from busfast.cli.results import compare, evaluate, explain, report
from busfast.cli.train import lr_find, sweep, train
from busfast.errors import Interrupted, UserError, choose
from busfast.pipelines.pipeline_file import name_origins
from busfast.terminal import Fitted, fit
from busfast.text import CAUTION, plain_text

Verbs = dict[str, Callable[..., str | None]]  # what a verb returns is the command that comes next
READ_IMAGES = (prepare, audit, split, train, lr_find, sweep, evaluate, explain, export, predict, cache)
SPEAK_OF_A_MODEL = ("train", "sweep", "evaluate", "explain", "report", "ensemble", "export", "predict")
VERBS: Verbs = {verb.__name__: with_pixel_limit(verb) if verb in READ_IMAGES else verb for verb in (
    prepare, audit, split, train, lr_find, sweep, evaluate, explain, report, compare, ensemble, export, predict, demo,
    cache, bench)}


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status (docs/reference/outside.md)."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file has each line at once
    with redirect_stdout(Fitted(sys.stdout)) if sys.stdout and sys.stdout.isatty() else nullcontext():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that temporary files are removed
    processes.capture_launcher()
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # fastai's import, not the user's
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of it, busfast says of the file
    call = None
    try:
        if argv == ["--version"]:
            print(f"busfast {__version__}")
            return 0
        if not argv or {"--help", "-h"} & set(argv):
            parse.show_help(VERBS, [choose("verb", argv[0], VERBS)] if argv and not argv[0].startswith("-") else [])
            return 0
        parse.check(VERBS, argv)
        call = parse.parse(VERBS, argv)
        if (quota := processes.cpu_quota()) < 1 and processes.rank() == 0:
            print(f"cores: a CPU quota (of a container, Slurm or systemd) grants this process {quota:.2g} of a core. "
                  f"busfast works with that, with one thread, but takes at least {1 / quota:.2g} times as long as on a "
                  "whole core.")
        if processes.world_size() > 1:
            from busfast.training.distributed.worker import run_distributed

            run_distributed(argv[0], lambda: _run(call))
        else:
            _run(call)
    except UserError as error:
        if processes.rank() == 0:  # the other ranks would repeat it
            said = f"busfast: {plain_text(f'{error}{_name_origins(error, call)}')}"
            print(fit(said) if sys.stderr.isatty() else said, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if processes.rank() == 0 and not isinstance(stop, Interrupted):
            print("\n" * sys.stderr.isatty() + "busfast: interrupted", file=sys.stderr)  # on a terminal ^C stands there
        return 130
    except parse.FireExit as end:
        return end.code
    except BrokenPipeError:  # `busfast ... | head`
        sys.stdout = None
        return 141
    return 0


def _name_origins(error: UserError, call: parse.Call | None) -> str:
    """Says where settings come from that a refusal names and the user did not type."""
    if call is None or "pipeline" not in inspect.signature(call.verb).parameters:
        return ""
    with suppress(UserError):  # of --set, which is what was refused
        flags = {key: value for key, value in call.kwargs.items() if key not in ("pipeline", "preset", "set")}
        return name_origins(str(error), call.kwargs.get("pipeline") or "", call.kwargs.get("preset"),
                            **read_keys(call.kwargs.get("set"), flags))
    return ""


def _run(call: parse.Call) -> None:
    """Runs a verb; prints the command that it returns, to be pasted, and once what a model is for."""
    following = call.verb(*call.args, **call.kwargs)
    if call.verb.__name__ in SPEAK_OF_A_MODEL:
        print(CAUTION)
    if following:
        print(f"Next: {following}")
