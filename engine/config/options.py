"""Options of the model and the loss: typed by the signature of the function that receives them."""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from data.class_weights import is_rule, rule_options
from engine.config.coerce import NONE, coerce, coerce_options
from engine.config.keys import LossConfig, ModelConfig
from losses import LOSSES, distils, loss_options
from models import model_options


def loss_spec(loss: LossConfig) -> dict:
    """What `losses.build_loss` takes, from the section `loss`."""
    if not loss.terms:
        return {"name": loss.name, **loss.options}
    return {"terms": loss.terms, **({"weights": loss.weights} if loss.weights else {})}


def type_model(model: ModelConfig, where: str) -> None:
    valid = model_options(model.name, encoder=model.options.get("encoder"))
    model.options = coerce_options(model.options, valid, f"{where}: model")


def type_loss(loss: LossConfig, where: str) -> None:
    """Type the options of the loss, its terms and `aux`. Raises: UserError for a combination that cannot train."""
    if loss.terms:
        loss.terms = [_typed_term(term, f"{where}: loss.terms[{i}]") for i, term in enumerate(loss.terms)]
    else:
        loss.options = _typed_options(loss.name, loss.options, f"{where}: loss")
    if loss.weights and len(loss.weights) != len(loss.terms):
        raise UserError(f"{where}: loss.weights has {len(loss.weights)} values for {len(loss.terms)} loss.terms")
    if "terms" in loss.aux:
        loss.aux = {"terms": [_typed_term(t, f"{where}: loss.aux.terms[{i}]") for i, t in enumerate(loss.aux["terms"])]}
    elif loss.aux:
        loss.aux = _typed_term(loss.aux, f"{where}: loss.aux", weighted=False)
    if loss.options.get("reduction") == "none" or loss.aux.get("reduction") == "none":
        raise UserError(f"{where}: loss: training needs one value, not reduction: none")
    learns = any(distils(LOSSES[name]) for name in [t["name"] for t in loss.terms] or [loss.name])
    if learns != bool(loss.teacher):
        need = "cwd and kd need loss.teacher, a checkpoint" if learns else "loss.teacher is used by no cwd or kd"
        raise UserError(f"{where}: {need}")


def _typed_term(term: Any, at: str, weighted: bool = True) -> dict:
    """{name, weight, options} with each value as its type. A weight may be a pair [first, last]."""
    if not isinstance(term, dict) or "name" not in term:
        raise UserError(f"{at}: expected {{name: ..., {'weight: ..., ' * weighted}options}}, got {term!r}")
    options = {k: v for k, v in term.items() if k != "name" and not (weighted and k == "weight")}
    out = {"name": str(term["name"])}
    if weighted:
        out["weight"] = coerce(term.get("weight", 1.0), tuple[float, float] | float, f"{at}.weight")
    return out | _typed_options(out["name"], options, at)


def _typed_options(loss: str, given: dict, where: str) -> dict:
    """A loss's options. `class_weights` may also be a rule that computes them (data/class_weights.py)."""
    valid = loss_options(loss)
    rule, at = given.get("class_weights"), f"{where}.class_weights"
    if "class_weights" not in valid or not is_rule(rule) or str(rule).lower() in NONE:
        return coerce_options(given, valid, where)
    options = dict(rule) if isinstance(rule, dict) else {"rule": rule}
    if "rule" not in options:
        raise UserError(f"{at}: expected numbers, the name of a rule, or {{rule: ..., options}}, got {rule!r}")
    name = str(options.pop("rule"))
    options = coerce_options(options, rule_options(name), at)
    others = coerce_options({k: v for k, v in given.items() if k != "class_weights"}, valid, where)
    return {**others, "class_weights": {"rule": name, **options} if options else name}
