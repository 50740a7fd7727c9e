"""Checks of what models share: losses."""

from collections.abc import Callable

from vis_models.losses import lovasz_gradient

from .case import OPERATOR, Case


def lovasz_gradient_vector(case: Case) -> None:
    for name, truth in case.inputs.items():
        case.close(f"out.{name}", lovasz_gradient(truth), OPERATOR)


CHECKS: dict[str, Callable[[Case], None]] = {
    "lovasz_gradient_vector": lovasz_gradient_vector,
}
SLOW: tuple[str, ...] = ()
