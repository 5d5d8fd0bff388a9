"""The config keys, tools and options that users rely on. Each one that is added or removed needs a reason.

Change the lists below together with the code, and write the reason in the commit message: what a user can do now that
was not possible before, or why nobody needs the old key.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import eval as eval_command
import predict
import train
from engine.config import SECTIONS, Config

ROOT = Path(__file__).parent.parent

KEYS = {
    "": "name seed device",
    "model": "name pretrained take reuse_classes freeze options",
    "data": "name root size augment crop copy_paste paste_classes paste_exclude paste_edge sampling "
    "sampling_temperature limit sample sample_seed sample_by cache labels background label_map",
    "loss": "name terms weights aux_weight aux teacher options",
    "optim": "name lr head_lr_factor weight_decay decay_norms momentum nesterov betas amsgrad clip_norm",
    "schedule": "name warmup_iters warmup_factor power min_factor cycle cycle_mult percent_up start_factor gamma "
    "factor patience",
    "train": "epochs batch_size workers amp deterministic validate_every keep early_stopping",
    "cv": "folds start start_epochs start_overrides stages select member group start_share select_share replay_start "
    "bn_images line_points line_images",
    "eval": "native absent void exclude extra batch_size scales flip window stride blend",
    "log": "plots samples tracker",
}

TOOLS = (
    "check_data class_weights compare convert curves export gallery get_data look lr_find overfit pretrained "
    "receptive_field replay schedule score show_batch streets_sheet study summary"
)

OPTIONS = {
    train: "config --device --name --resume --set",
    eval_command: "--aggregate --blend --checkpoint --config --device --extra --flip --json --native --run --save "
    "--scales --set --split --void --weights --window",
    predict: "inputs --aggregate --checkpoint --classes --device --every --frames --out --run --set --weights --write",
}


def same(kind: str, listed: str, found: set[str]) -> None:
    added, removed = sorted(found - set(listed.split())), sorted(set(listed.split()) - found)
    changes = [f"{word} {', '.join(names)}" for word, names in (("added", added), ("removed", removed)) if names]
    assert not changes, f"{kind}: {'; '.join(changes)}. Give the reason in the commit and change the list here"


def test_config_keys():
    assert set(KEYS) - {""} == set(SECTIONS)
    cfg = Config()
    same("config keys", KEYS[""], {f.name for f in dataclasses.fields(cfg)} - set(SECTIONS))
    for section in SECTIONS:
        same(f"config keys of {section}", KEYS[section], {f.name for f in dataclasses.fields(getattr(cfg, section))})


def test_tools():
    folder = ROOT / "tools"
    commands = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__main__.py")}
    same("tools", TOOLS, commands - {"__init__"})


def test_options_of_the_three_commands():
    for module, listed in OPTIONS.items():
        found = {a.option_strings[-1] if a.option_strings else a.dest for a in module.build_parser()._actions}
        same(f"options of {module.__name__}.py", listed, found - {"--help"})
